# SPDX-License-Identifier: MIT
"""Bias correction: the means of a quantized network's layers become those of the float network."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bitwright.errors import DataError, TrainingError
from bitwright.graph import Graph, capture
from bitwright.graph.execute import execute
from bitwright.graph.nodes import Node
from bitwright.integer import run
from bitwright.reconstruction import correct_biases
from bitwright.reconstruction.sharing import shared
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, calibrate, quantize
from integer.certified import certified
from training.small import digits, small_graph, small_quantized


class Twice(nn.Module):
    """One convolution with an offset in two places, then a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.fc = nn.Conv2d(1, 1, 3, 1, 1), nn.AdaptiveAvgPool2d(4), nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(self.pool(torch.relu(self.conv(torch.relu(self.conv(images))))).flatten(1))


def folded() -> Graph:
    """Layers without batch norm, as published mobile networks come: dense, depthwise and pointwise, and a classifier."""
    torch.manual_seed(0)
    layers = (
        nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.ReLU6(), nn.Conv2d(8, 12, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 10),
    )  # fmt: skip
    return capture(nn.Sequential(*layers).eval(), (1, 28, 28), name="folded")


def at(precision: str, graph: Graph) -> QuantizedModel:
    """The network, quantized and calibrated, with batch norm as it was."""
    scheme = Scheme.uniform(graph.layers, Precision.parse(precision))
    return calibrate(quantize(graph, scheme), [digits().calibration(128)[0]]).eval()


def mean_errors(model: QuantizedModel, images: Tensor) -> dict[str, Tensor]:
    """By node, how far the mean of each channel is from the float network's."""
    found: dict[str, Tensor] = {}

    def keep(node: Node, values: Tensor) -> None:
        found[node.name] = values.mean([axis for axis in range(values.dim()) if axis != 1])

    graph = model.plan.graph
    with torch.no_grad():
        execute(graph, model.plan.source.parameters, images, observe=keep)
        floats, layers = found.copy(), graph.layers
        model.integers(images, lambda name, made: keep(graph[name], made.real()))
    return {name: found[name] - floats[name] for name in layers}


@pytest.mark.parametrize("precision", ["W2A4", "W3A3", "W4A8"])
@pytest.mark.parametrize("network", [folded, small_graph])
def test_means_become_those_of_the_float_network(network: Callable[[], Graph], precision: str) -> None:
    """Of all layers taken together, clamped and rounded as they are; of logits, which are neither, to float32's last places."""
    images, model = digits().calibration(128)[0], at(precision, network())
    before = mean_errors(model, images)
    assert correct_biases(model, images) is model
    after = mean_errors(model, images)
    *_, logits = after
    assert float(after[logits].abs().max()) < 1e-4 < float(before[logits].abs().max())
    assert sum(float(error.norm()) for error in after.values()) < sum(float(error.norm()) for error in before.values())
    integers, unseen = certified(model), digits().test.read(range(200))[0]
    with torch.no_grad():
        assert torch.equal(model.integers(unseen)["logits"].values.to(torch.int32), run(integers, unseen))


def test_offsets_that_layers_share_stay() -> None:
    """What corrects one of their places would put the other off."""
    torch.manual_seed(0)
    model = at("W2A4", capture(Twice().eval(), (1, 28, 28), name="twice"))
    assert shared(model.plan.graph) == {"conv.weight", "conv.bias"}
    before = {name: value.clone() for name, value in model.parameters_by_name().items()}
    correct_biases(model, digits().calibration(32)[0])
    moved = {name for name, value in model.parameters_by_name().items() if not torch.equal(value, before[name])}
    assert moved == {"fc.bias"}


def test_what_it_cannot_begin_with_is_refused() -> None:
    """Models that are not calibrated, and no images."""
    graph = small_graph()
    with pytest.raises(TrainingError, match="not calibrated"):
        correct_biases(quantize(graph, Scheme.uniform(graph.layers, Precision(4, 4))), digits().calibration(8)[0])
    with pytest.raises(DataError):
        correct_biases(small_quantized(), torch.zeros(0, 1, 28, 28))
