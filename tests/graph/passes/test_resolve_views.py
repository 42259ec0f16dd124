# SPDX-License-Identifier: MIT
"""Views move past what computes each element by itself, however many there are, and whatever they are called."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.graph import FloatModel, capture
from bitwright.returned import by_name, named_tensors
from graph.networks import IMAGE, Called, Then, captured, kinds

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "relu6": F.relu6,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "hardswish": F.hardswish,
    "twice": lambda x: F.relu(torch.sigmoid(x) - 0.5),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_head_of_places_in_a_row(name: str) -> None:
    """(channels, height, width) to (places, channels) is two views, which pass the same function one after the other."""
    function = FUNCTIONS[name]
    single = captured(Then(lambda x: function(x.flatten(2).transpose(1, 2))))
    assert kinds(single)[-1] == "Rearrange" or kinds(single)[-2:] == ["Clamp", "Rearrange"]
    model = Then(lambda x: (view := x.flatten(2).transpose(1, 2), function(view))).eval()
    graph = capture(model, IMAGE)
    images = torch.rand(3, *IMAGE)
    expected = named_tensors(model(images), "the model")
    for key, made in by_name(FloatModel(graph)(images)).items():
        torch.testing.assert_close(made, expected[key])


def test_names_of_the_users_own_are_left_to_them() -> None:
    """A layer that is called as a moved view would be keeps its name."""
    layers = {"sigmoid": nn.Module(), "head": nn.Conv2d(8, 4, 1)}
    layers["sigmoid"].view = nn.Conv2d(3, 8, 3)
    graph = captured(Called(lambda m, x: torch.sigmoid(m.head(m.sigmoid.view(x)).flatten(2).transpose(1, 2)), **layers))
    assert [*graph.layers] == ["sigmoid.view", "head"]
