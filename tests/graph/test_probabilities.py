# SPDX-License-Identifier: MIT
"""A softmax or sigmoid that ends a network stays out of its integers, and this is said."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from bitwright.errors import BitwrightWarning
from bitwright.graph import FloatModel, capture
from graph.networks import IMAGE, Then


def test_a_sigmoid_at_the_end_is_left_out() -> None:
    """One that nothing else reads; within the network, or as a part of another function, it stays."""
    model = Then(lambda x: {"mask": x.sigmoid(), "gated": x * x.mean((2, 3), keepdim=True).sigmoid()})
    with pytest.warns(BitwrightWarning, match=r"^mine ends in sigmoid \(.*probability above 1/2 is a logit above 0"):
        graph = capture(model, IMAGE, name="mine")
    images = torch.randn(3, *IMAGE)
    found, expected = FloatModel(graph).eval()(images), model.eval()(images)
    torch.testing.assert_close(found["mask"].sigmoid(), expected["mask"])
    torch.testing.assert_close(found["gated"], expected["gated"])


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: x.mean((2, 3)).softmax(1), "softmax"),
        (lambda x: x.softmax(-3), "softmax"),
        (nn.Sequential(nn.Flatten(), nn.Dropout(), nn.LogSoftmax(-1)), "log_softmax"),
    ],
)
def test_a_softmax_at_the_end_is_left_out(function: Callable[[Tensor], Tensor], name: str) -> None:
    """The graph returns logits of the same order, after a check that their softmax is what the model returns."""
    model = Then(function)
    with pytest.warns(BitwrightWarning, match=rf"^mine ends in {name} \(.*returns logits, whose order is the same"):
        graph = capture(model, IMAGE, name="mine")
    images = torch.randn(3, *IMAGE)
    logits, expected = FloatModel(graph).eval()(images), model.eval()(images)
    made = logits.softmax(1) if name == "softmax" else logits.log_softmax(1)
    torch.testing.assert_close(made, expected)
    assert torch.equal(logits.argmax(1), expected.argmax(1))
