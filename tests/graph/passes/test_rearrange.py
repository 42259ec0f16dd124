# SPDX-License-Identifier: MIT
"""Views and permutations between images are one move each, or none."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bitwright.graph.passes.rearrange import Layout
from graph.networks import Then, captured, kinds


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[str, tuple[int, ...]]]]:
    """The shape of an image, and views and permutations of it one behind the other."""
    start = shape = tuple(draw(st.sampled_from((1, 2, 3, 4, 6))) for _ in range(3))
    steps: list[tuple[str, tuple[int, ...]]] = []
    for _ in range(draw(st.integers(1, 5))):
        if draw(st.booleans()):
            axes = tuple(draw(st.permutations(range(1, len(shape) + 1))))
            shape = tuple(shape[axis - 1] for axis in axes)
            steps.append(("permute", (0, *axes)))
            continue
        left, sizes = prod(shape), list[int]()
        while left > 1 and len(sizes) < 4:
            sizes.append(draw(st.sampled_from([size for size in range(1, left + 1) if left % size == 0])))
            left //= sizes[-1]
        shape = (*sizes, left)
        steps.append(("reshape", shape))
    return start, steps


@settings(max_examples=200, deadline=None)
@given(chains())
def test_layouts_are_what_pytorch_computes(chain: tuple[tuple[int, ...], list[tuple[str, tuple[int, ...]]]]) -> None:
    """The parts and axes of any chain, applied at once, place every value where the chain does; else there are none in common."""
    shape, steps = chain
    values = expected = torch.arange(prod(shape)).reshape(1, *shape)
    layout: Layout | None = Layout.of(shape)
    for operation, numbers in steps:
        assert layout is not None
        expected = expected.permute(list(numbers)) if operation == "permute" else expected.reshape(1, *numbers)
        layout = layout.permuted(numbers) if operation == "permute" else layout.reshaped(numbers)
        if layout is None:
            return
        order = [place for axis in layout.axes for place in axis]
        rest = [place for place in range(len(layout.parts)) if place not in order]  # of one place
        parts = values.reshape(layout.parts).permute([*order, *rest])
        assert parts.reshape(expected.shape).equal(expected)


def squeezed(x: Tensor) -> Tensor:
    """Pixels into channels, block by block, as TResNet writes it."""
    return x.view(-1, 8, 4, 2, 4, 2).permute(0, 3, 5, 1, 2, 4).reshape(-1, 32, 4, 4)


@pytest.mark.parametrize(
    ("function", "moves"),
    [
        (squeezed, ["Rearrange"]),
        (lambda x: squeezed(x).view(-1, 2, 2, 8, 4, 4).permute(0, 3, 4, 1, 5, 2).reshape(-1, 8, 8, 8), []),
        (lambda x: x.permute(0, 2, 3, 1).relu().permute(0, 3, 1, 2), []),
        (lambda x: x.permute(0, 2, 3, 1).flatten(1), ["Rearrange"]),
        (lambda x: x.transpose(2, 3).contiguous().view(-1, 8, 64).flatten(1), ["Rearrange"]),
        (lambda x: x.view(-1, 16, 32).transpose(1, 2).reshape(-1, 8, 8, 8), ["Rearrange"]),
        (
            lambda x: x[:, :6].reshape(-1, 4, 96).transpose(1, 2).reshape(-1, 6, 8, 8),
            ["Slice", "Rearrange", "Rearrange"],
        ),
        (
            lambda x: x.view(-1, 4, 2, 64).transpose(1, 2)[:, 1].reshape(-1, 4, 8, 8),
            ["Rearrange", "Slice", "Rearrange"],
        ),
        (lambda x: torch.stack([x, x.relu()], 2).flatten(1, 2), ["Concat", "Take"]),
    ],
)
def test_views_become_moves(function: Callable[[Tensor], Tensor], moves: list[str]) -> None:
    """Whatever is written between two images; views that undo each other leave nothing."""
    graph = captured(Then(function))
    assert [kind for kind in kinds(graph) if kind not in ("Input", "Conv2d", "Clamp")] == moves
