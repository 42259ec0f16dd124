# SPDX-License-Identifier: MIT
"""What keeps OpenVINO from rearranging a file stands in it, also where only some CPUs would show its absence."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

from bitwright.export import to_openvino
from bitwright.integer import IntegerModel, lower
from bitwright.integer.ops import IntegerAdd
from bitwright.integer.proof.bounds import FLOAT32_EXACT
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from graph.networks import Called, captured

openvino = pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")

NETWORK = Called(
    # Additions of a convolution that a layer reads as well, of one that none reads, of an addition, and of a pool.
    lambda net, images: net.last(
        (
            (second := (first := net.first(images).relu()) + net.inner(first)).relu()
            + net.shortcut(first)
            + net.pool(third := net.third(second))
            + net.fourth(third)
        )
        .relu()
        .flatten(1)
    ),
    first=nn.Conv2d(3, 8, 3),
    inner=nn.Conv2d(8, 8, 3, padding=1),
    shortcut=nn.Conv2d(8, 8, 1),
    pool=nn.MaxPool2d(3, 1, 1),
    third=nn.Conv2d(8, 8, 3, padding=1),
    fourth=nn.Conv2d(8, 8, 1, groups=8),
    last=nn.Linear(8 * 36, 10),
)


@cache
def model_of(precision: str) -> IntegerModel:
    """The network, lowered."""
    torch.manual_seed(0)
    graph = captured(NETWORK)
    scheme = Scheme("all", dict.fromkeys(graph.layers, Precision.parse(precision)))
    return lower(calibrate(quantize(graph, scheme), [torch.randn(8, 3, 8, 8)], "minmax"))


def kind(node: Any) -> str:
    """Of an operation, for instance `Add`."""
    return str(node.get_type_name())


def source(node: Any, index: int = 0) -> Any:
    """What it reads."""
    return node.input_value(index).get_node()


def readers(node: Any) -> list[Any]:
    """What reads it."""
    return [port.get_node() for port in node.output(0).get_target_inputs()]


def limits(node: Any) -> tuple[float, float]:
    """Of a clamp."""
    found = node.get_attributes()
    return found["min"], found["max"]


def rescaled(made: Any) -> Iterator[tuple[Any, Any]]:
    """Convolutions whose sums are rescaled, and what reads these with their bias."""
    for node in made.get_ops():
        if kind(node) in ("Convolution", "GroupConvolution"):
            (biased,) = readers(node)
            assert kind(biased) == "Add"
            (reader,) = readers(biased)
            if kind(reader) != "Reshape":  # of the logits
                yield node, reader


@pytest.mark.parametrize("precision", ["W7A8", "W8A8", "W4A4"])
def test_no_multiplication_meets_a_sum(precision: str) -> None:
    """Sums are clamped to 2**24 before they are multiplied: or else multipliers go into the weights, and are rounded there.

    Without the clamp, no convolution of the file is left in what OpenVINO compiles: this shows on every CPU.
    """
    made = to_openvino(model_of(precision))
    sums = list(rescaled(made))
    assert len(sums) == 5
    for _, clamp in sums:
        assert kind(clamp) == "Clamp"
        assert limits(clamp) == (-FLOAT32_EXACT, FLOAT32_EXACT)
    compiled = openvino.Core().compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    info = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    kept = {name for entry in info for name in entry["originalLayersNames"].astype(str).split(",")}
    assert {node.get_friendly_name() for pair in sums for node in pair} <= kept


@pytest.mark.parametrize("precision", ["W7A8", "W8A8"])
def test_additions_are_apart_from_what_they_add(precision: str) -> None:
    """A term that is marked as bytes is clamped behind the mark, and pooled before, over one pixel, if it is a convolution's.

    The mark and what is before it are one kernel with the convolution, which could take the addition as well.
    """
    model = model_of(precision)
    made = to_openvino(model)
    additions = [
        node
        for node in made.get_ops()
        if kind(node) == "Add" and {kind(source(node, i)) for i in (0, 1)} == {"Multiply"}
    ]
    assert len(additions) == sum(isinstance(op, IntegerAdd) for op in model) == 4
    behind_convolutions = 0
    for node in (source(source(addition, index)) for addition in additions for index in (0, 1)):
        if kind(node) != "Clamp" or kind(source(node)) not in ("FakeQuantize", "MaxPool"):
            continue  # float32 numbers
        low, high = limits(node)
        assert -255 <= low <= 0 < high <= low + 255
        pool = source(node)
        marked = source(pool) if kind(pool) == "MaxPool" else pool
        assert kind(marked) == "FakeQuantize"
        if _of_convolution(marked):
            behind_convolutions += 1
            assert kind(pool) == "MaxPool"
            assert list(pool.get_attributes()["kernel"]) in ([1, 1], [3, 3])
    assert behind_convolutions >= 2


def _of_convolution(mark: Any) -> bool:
    """Whether a mark is behind the rescaled sums of a convolution."""
    node = source(mark)
    while kind(node) in ("Clamp", "Round", "Multiply", "Convert"):
        node = source(node)
    return kind(node) == "Add" and kind(source(node)) in ("Convolution", "GroupConvolution")
