# SPDX-License-Identifier: MIT
"""Affine maps by constants: where they go, and that nothing changes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.graph import Graph, capture
from bitwright.graph.nodes import Bounds
from graph.networks import IMAGE, Called, assert_same, kinds, randomized

GAIN = torch.tensor([0.5, 2.0, -1.0, 0.25, 1.0, 4.0, -0.5, 0.125]).view(8, 1, 1)
OFFSET = torch.arange(8.0).view(1, 8, 1, 1) / 4 - 1


def network(forward: Callable[[nn.Module, Tensor], Tensor]) -> Graph:
    """Convolutions, norm and head for a forward function; all constants are exact in float32, so float64 tells the truth."""
    generator = torch.Generator().manual_seed(5)
    model = Called(
        forward,
        conv=nn.Conv2d(3, 8, 3, padding=1),
        body=nn.Conv2d(8, 8, 3, groups=4),
        padded=nn.Conv2d(8, 8, 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(8),
        head=nn.Linear(8, 4),
    )
    with torch.no_grad():
        for parameter in randomized(model).parameters():
            parameter.copy_((torch.randn(parameter.shape, generator=generator) * 64).round() / 64)
    graph = capture(model, IMAGE)
    assert_same(model, graph)
    return graph


@pytest.mark.parametrize(
    ("forward", "expected"),
    [
        # into the layer before, without and with a norm, and twice
        (lambda m, x: F.relu(m.conv(x) * GAIN + OFFSET), "Conv2d"),
        (lambda m, x: m.norm(m.conv(x)) * GAIN - OFFSET, "Conv2d"),
        (lambda m, x: m.norm(2 * m.conv(x) - 1), "Conv2d"),
        (lambda m, x: m.head(m.conv(x).mean((2, 3))) / 0.25, "Conv2d AvgPool2d Flatten Linear"),
        (lambda m, x: m.conv(x).flatten(1) * 2, "Conv2d Flatten"),
        # through clamps and pools
        (lambda m, x: F.relu(m.conv(x)) * 0.5, "Conv2d"),
        (lambda m, x: F.relu(m.conv(x)) * GAIN.abs(), "Conv2d"),
        (lambda m, x: 1 - F.relu6(m.conv(x)), "Conv2d"),
        (lambda m, x: F.max_pool2d(F.relu6(m.conv(x)), 2) * 4 + 1, "Conv2d MaxPool2d"),
        (lambda m, x: F.avg_pool2d(m.conv(x), 3, 1, 1) * GAIN, "Conv2d AvgPool2d"),
        (lambda m, x: F.avg_pool2d(m.conv(x), 2) + OFFSET, "Conv2d AvgPool2d"),
        # into the layer behind
        (lambda m, x: m.conv(x * 0.25), "Conv2d"),
        (lambda m, x: m.body(F.relu(m.conv(x)) * GAIN + OFFSET), "Conv2d Conv2d"),
        (lambda m, x: m.padded(F.relu6(m.conv(x)) * GAIN), "Conv2d Conv2d"),
        (lambda m, x: m.head((F.relu(m.conv(x)).mean((2, 3)) - 0.5) * GAIN.flatten()), "Conv2d AvgPool2d Flatten Linear"),
        # layers of their own: padding stays zero, a maximum turns round, others read the layer as well
        (lambda m, x: m.conv(2 * x - 1), "Conv2d Conv2d"),
        (lambda m, x: F.max_pool2d(F.relu(m.conv(x)), 2) * GAIN, "Conv2d MaxPool2d Conv2d"),
        (lambda m, x: F.avg_pool2d(m.conv(x), 3, 1, 1) + OFFSET, "Conv2d AvgPool2d Conv2d"),
        (lambda m, x: (y := m.conv(x)) + F.relu(y * GAIN), "Conv2d Conv2d Add"),
        (lambda m, x: (y := m.conv(x)) - m.padded(F.relu(y)) * 0.5, "Conv2d Clamp Conv2d Add"),
        (lambda m, x: (y := m.conv(x).mean((2, 3))) - y.relu(), "Conv2d AvgPool2d Flatten Clamp Linear Add"),
        # nothing at all
        (lambda m, x: sum([m.conv(x), m.padded(m.conv(x))]) * 1 + 0, "Conv2d Conv2d Conv2d Add"),
    ],
)  # fmt: skip
def test_where_a_map_goes(forward: Callable[[nn.Module, Tensor], Tensor], expected: str) -> None:
    """The network computes the same, to the last digits of float64, and has no other layers than it must."""
    graph = network(forward)
    assert kinds(graph) == ["Input", *expected.split()]
    read = {name for name in graph.parameters if name.endswith((".gain", ".offset"))}
    assert not read


def test_clamps_move_with_the_map() -> None:
    """A clamp between layer and map gets other bounds; a negative gain swaps them."""
    assert network(lambda m, x: 1 - F.relu6(m.conv(x)) * 0.5).layers["conv"].bounds == Bounds(-2.0, 1.0)
    assert network(lambda m, x: -F.relu(m.conv(x))).layers["conv"].bounds == Bounds(None, 0.0)


def test_tensors_that_change_have_names_of_their_own() -> None:
    """A state dict of the model cannot be taken for that of a network whose weight is another one."""
    graph = network(lambda m, x: m.conv(x) * 0.5)
    assert "conv.weight" not in graph.parameters
    assert set(graph.parameters) >= {"conv.scaled_weight", "conv.scaled_bias"}
