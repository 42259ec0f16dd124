# SPDX-License-Identifier: MIT
"""Channel shuffles: found where they are, with the right groups, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bitwright.graph.nodes import ChannelShuffle
from graph.networks import Then, captured, kinds


def shuffle(x: Tensor, groups: int) -> Tensor:
    """As ShuffleNet writes it."""
    batch, channels, height, width = x.size()
    x = x.view(batch, groups, channels // groups, height, width)
    return torch.transpose(x, 1, 2).contiguous().view(batch, channels, height, width)


@pytest.mark.parametrize("groups", [2, 3, 4, 6])
def test_a_shuffle_is_one_node_with_its_groups(groups: int) -> None:
    """View, transpose, view of 12 channels become one node; groups and channels per group are not confused."""
    graph = captured(Then(lambda x: shuffle(x, groups), channels=12))
    assert kinds(graph) == ["Input", "Conv2d", "ChannelShuffle"]
    assert isinstance(graph.nodes[-1], ChannelShuffle)
    assert graph.nodes[-1].groups == groups


def test_torch_s_own_shuffle_is_the_same_node() -> None:
    """`nn.ChannelShuffle` and ShuffleNet's way agree."""
    ours, theirs = (captured(Then(f, channels=12)) for f in (lambda x: shuffle(x, 3), torch.nn.ChannelShuffle(3)))
    for graph in (ours, theirs):
        assert isinstance(graph.nodes[-1], ChannelShuffle)
        assert graph.nodes[-1].groups == 3


def test_axes_in_the_other_order() -> None:
    """A transpose of axes 2 and 1, or counted from the end, is the same."""
    for axes in ((2, 1), (-4, -3), (-3, 1)):
        graph = captured(Then(lambda x, axes=axes: x.view(-1, 2, 4, 8, 8).transpose(*axes).reshape(-1, 8, 8, 8)))
        assert kinds(graph)[-1] == "ChannelShuffle"


def test_a_flattened_shuffle() -> None:
    """A view that flattens the shuffled channels follows the shuffle, and does not replace it."""
    graph = captured(Then(lambda x: shuffle(x, 2).view(-1, 8 * 8 * 8)))
    assert kinds(graph) == ["Input", "Conv2d", "ChannelShuffle", "Flatten"]


def test_two_shuffles_in_a_row() -> None:
    """Shuffling with 2 and then 4 groups of 8 channels is the identity, in two nodes."""
    graph = captured(Then(lambda x: shuffle(shuffle(x, 2), 4)))
    assert kinds(graph) == ["Input", "Conv2d", "ChannelShuffle", "ChannelShuffle"]


def other_axes(x: Tensor) -> Tensor:
    """Swaps rows with channels of a group."""
    return x.view(-1, 2, 4, 8, 8).transpose(2, 3).reshape(-1, 8, 8, 8)


def other_pixels(x: Tensor) -> Tensor:
    """Cuts rows apart before it swaps."""
    return x.view(-1, 2, 8, 4, 8).transpose(1, 2).reshape(-1, 8, 8, 8)


def other_shape(x: Tensor) -> Tensor:
    """Returns to another shape than it came from."""
    return x.view(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 4, 16)


def no_way_back(x: Tensor) -> Tensor:
    """Stays transposed."""
    return x.view(-1, 2, 4, 8, 8).transpose(1, 2)


@pytest.mark.parametrize("function", [other_axes, other_pixels, other_shape])
def test_what_resembles_a_shuffle_is_none(function: Callable[[Tensor], Tensor]) -> None:
    """A transpose of other axes, other groups of values or another way back is a move of its own, not misread."""
    assert kinds(captured(Then(function))) == ["Input", "Conv2d", "Rearrange"]


def test_a_shuffle_without_its_end_is_a_move() -> None:
    """What the network returns is a tensor of five axes."""
    graph = captured(Then(no_way_back))
    assert kinds(graph) == ["Input", "Conv2d", "Rearrange"]
    assert graph.output_shape == (4, 2, 8, 8)
