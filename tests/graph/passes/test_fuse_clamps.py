# SPDX-License-Identifier: MIT
"""Fusing clamps: into the only producer, never past another reader."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bitwright.graph.evaluate import clamp
from bitwright.graph.nodes import Bounds, Layer
from graph.networks import Then, captured, kinds

LIMITS = st.one_of(st.none(), st.integers(-4, 4).map(float))


@st.composite
def all_bounds(draw: st.DrawFn) -> Bounds:
    """Any clamp: one side, both, or none."""
    sides = [draw(LIMITS), draw(LIMITS)]
    if None not in sides:
        sides.sort()  # type: ignore[type-var]
    return Bounds(*sides)


@given(all_bounds(), all_bounds())
def test_one_clamp_does_what_two_do(first: Bounds, second: Bounds) -> None:
    """Bounds followed by bounds are bounds, even where the two intervals do not meet."""
    values = torch.arange(-6.0, 6.5, 0.5)
    expected = clamp(clamp(values, first), second)
    assert torch.equal(clamp(values, first.then(second)), expected)


@given(all_bounds())
def test_non_negative_is_what_it_says(bounds: Bounds) -> None:
    """Unsigned integers hold the result exactly where no value below zero can come out."""
    values = clamp(torch.arange(-6.0, 6.5, 0.5), bounds)
    if bounds.non_negative:
        assert bool((values >= 0).all())
    elif bounds.maximum is None or bounds.maximum >= 0:
        assert bool((values < 0).any())


@pytest.mark.parametrize(
    ("function", "nodes"),
    [
        (F.relu, []),
        (lambda x: F.relu(x + x), ["Add"]),
        (lambda x: F.relu6(F.relu(x)).clamp(max=3), []),
        (lambda x: F.relu(F.max_pool2d(x, 2)), ["MaxPool2d"]),
        (lambda x: F.relu(torch.cat([x, x], 1)), ["Concat", "Clamp"]),
        (lambda x: F.relu(torch.cat([x, x], 1)).clamp(max=1), ["Concat", "Clamp"]),
        (lambda x: F.relu(F.avg_pool2d(x, 2)), ["AvgPool2d", "Clamp"]),
    ],
)
def test_a_clamp_is_fused_into_its_producer(function: Callable[[Tensor], Tensor], nodes: list[str]) -> None:
    """Layers, sums and clamps take the clamp; what cannot leaves it as a node."""
    assert kinds(captured(Then(function))) == ["Input", "Conv2d", *nodes]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.relu(x) + x,
        lambda x: torch.cat([F.relu(x), x.clamp(-1, 1)], 1),
        lambda x: torch.cat([x, F.relu(x)], 1),
    ],
)
def test_another_reader_keeps_the_clamp_apart(function: Callable[[Tensor], Tensor]) -> None:
    """A tensor that is also read unclamped is not clamped."""
    graph = captured(Then(function))
    assert graph.layers["conv"].bounds is None
    assert "Clamp" in kinds(graph)


def test_a_clamp_that_is_read_twice_is_fused() -> None:
    """Only the readers of the clamp's input count, not its own."""
    graph = captured(Then(lambda x: (lambda y: y + F.max_pool2d(y, 3, 1, 1))(F.relu(x))))
    assert kinds(graph) == ["Input", "Conv2d", "MaxPool2d", "Add"]


def test_two_clamps_of_one_clamp() -> None:
    """The first is fused; the two that read it stay."""
    graph = captured(Then(lambda x: (lambda y: y.clamp(max=0.5) + y.clamp(max=0.25))(F.relu(x))))
    assert kinds(graph) == ["Input", "Conv2d", "Clamp", "Clamp", "Add"]
    assert graph.layers["conv"].bounds == Bounds(0.0)


def test_a_returned_tensor_is_not_clamped() -> None:
    """The clamp of an output that is returned unclamped is dead, and gone."""

    def function(x: Tensor) -> Tensor:
        F.relu(x)
        return x

    graph = captured(Then(function))
    assert isinstance(graph.nodes[-1], Layer)
    assert graph.nodes[-1].bounds is None
