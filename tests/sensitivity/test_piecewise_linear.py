# SPDX-License-Identifier: MIT
"""The claim that Gauss-Newton traces are the Hessian's is made for networks of listed operations alone."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch

from bitwright.errors import TrainingError
from bitwright.graph import Product, Table, capture, load_model
from bitwright.graph.evaluate import evaluate
from bitwright.graph.nodes import Node, Probabilities
from bitwright.graph.signs import makes_negative
from bitwright.sensitivity import measure_sensitivity, require_piecewise_linear
from bitwright.sensitivity.piecewise_linear import PIECEWISE_LINEAR
from phases import EVERY
from sensitivity.problems import problem


@dataclass(frozen=True, kw_only=True)
class Square(Node):
    """An operation with curvature of its own."""


@evaluate.register
def _(node: Square, inputs: list[torch.Tensor], parameters: object) -> torch.Tensor:
    return inputs[0] ** 2


@makes_negative.register
def _(node: Square, inputs: list[bool]) -> bool:
    return False


def test_a_curved_operation_is_refused_by_name() -> None:
    """With a square in the network the metric is refused; the one that probes the Hessian itself is not."""
    graph, images, labels = problem()
    classifier = graph["fc"]
    (source,) = classifier.inputs
    square = Square(name="square", inputs=(source,), shape=graph[source].shape, place="head, aten.square")
    changed = [node for node in graph if node.name != "fc"] + [square, classifier.reading("square")]
    curved = replace(graph, nodes=tuple(changed))
    message = r"'square' \(Square, head, aten.square\) is not piecewise linear, .* measure the metric hutchinson_trace"
    with pytest.raises(TrainingError, match=message):
        measure_sensitivity(curved, images, labels)
    table = measure_sensitivity(curved, images, labels, metric="hutchinson_trace", relative_error=0.5)
    assert len(table.layers) == 3


def test_every_operation_is_known() -> None:
    """Products, tables and probabilities are curved; a new operation has to be decided upon."""
    assert set(EVERY) == {*PIECEWISE_LINEAR, Probabilities, Product, Table}


def test_captured_networks_pass() -> None:
    """Concatenations, shuffles, clamps and pooling are all of the kind."""
    for name in ("torchvision:shufflenet_v2_x0_5", "torchvision:squeezenet1_1"):
        require_piecewise_linear(capture(load_model(name), (3, 64, 64)))
