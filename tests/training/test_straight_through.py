# SPDX-License-Identifier: MIT
"""Straight-through arithmetic has the values and the gradients of its literal forms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from bitwright.training.straight_through import (
    clamp_round,
    round_half_even,
    scale_by,
    scale_gradient,
    weighted_sum,
    with_ratio_gradient,
)


def gradients(function: Callable[..., Tensor], *inputs: Tensor, seed: int = 3) -> tuple[Tensor, ...]:
    """The value, and the gradient by each input of a random weighting of the result."""
    leaves = [value.clone().requires_grad_() for value in inputs]
    value = function(*leaves)
    weighting = torch.randn(value.shape, generator=torch.Generator().manual_seed(seed), dtype=value.dtype)
    return value.detach(), *torch.autograd.grad((value * weighting).sum(), leaves)


def randn(*shape: int) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(shape, dtype=torch.float64)


def test_rounding_passes_the_gradient() -> None:
    """Halves go to even; the gradient is one everywhere."""
    values = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.7], requires_grad=True)
    rounded = round_half_even(values)
    assert rounded.tolist() == [-2, -2, 0, 0, 2, 2, 1]
    rounded.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [1] * 7


def test_clamping_masks_the_gradient_outside() -> None:
    """Strictly inside the limits the gradient passes; on and outside them, as in ReLU and LSQ, it is zero."""
    values = torch.tensor([-9.0, -2.0, -1.9, 0.5, 1.5, 2.9, 3.0, 3.4], requires_grad=True)
    rounded = clamp_round(values, -2, 3)
    assert rounded.tolist() == [-2, -2, -2, 0, 2, 3, 3, 3]
    rounded.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 0, 1, 1, 1, 1, 0, 0]


def test_scaled_gradient() -> None:
    """The value stays, the gradient is multiplied."""
    value, gradient = gradients(lambda x: scale_gradient(x, 0.125), randn(5))
    plain, expected = gradients(lambda x: x * 1, randn(5) * 0 + value)
    assert torch.equal(value, plain)
    torch.testing.assert_close(gradient, 0.125 * expected)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_scaling_and_sums_have_the_gradients_of_autograd(layout: torch.memory_format) -> None:
    """Written out, products and sums of large tensors with small ratios have the same values and gradients."""
    first, second = (randn(3, 4, 5, 2).contiguous(memory_format=layout) for _ in range(2))
    one, two = randn(), randn()
    for got, expected in zip(
        gradients(scale_by, first, one), gradients(lambda x, ratio: x * ratio, first, one), strict=True
    ):
        torch.testing.assert_close(got, expected)
    for got, expected in zip(
        gradients(weighted_sum, first, one, second, two),
        gradients(lambda a, s, b, t: a * s + b * t, first, one, second, two),
        strict=True,
    ):
        torch.testing.assert_close(got, expected)


def test_operands_of_two_layouts() -> None:
    """A sum of a tensor and one in another memory layout has the right gradients too."""
    first, second = randn(3, 4, 5, 2), randn(3, 4, 5, 2).contiguous(memory_format=torch.channels_last)
    for a, b in ((first, second), (second, first)):
        got = gradients(weighted_sum, a, randn() * 0 + 2, b, randn() * 0 + 3)
        expected = gradients(lambda x, s, y, t: x * s + y * t, a, randn() * 0 + 2, b, randn() * 0 + 3)
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("biased", [True, False])
def test_the_ratio_gets_its_gradient_through_the_weights(biased: bool) -> None:
    """`with_ratio_gradient` gives a channel's ratio the gradient that autograd finds by a pass over the activations."""
    images, weight, bias, ratio = randn(2, 4, 6, 6), randn(6, 2, 3, 3), randn(6), randn(6).abs() + 0.1

    def literal(w: Tensor, b: Tensor, r: Tensor) -> Tensor:
        return torch.conv2d(images, w, b if biased else None, groups=2) * r.reshape(-1, 1, 1)

    def carried(w: Tensor, b: Tensor, r: Tensor) -> Tensor:
        w, c = with_ratio_gradient(w, b if biased else None, r)
        assert (c is not None) == biased
        return torch.conv2d(images, w, c, groups=2) * r.detach().reshape(-1, 1, 1) + 0 * b.sum()

    def with_unused(w: Tensor, b: Tensor, r: Tensor) -> Tensor:
        return literal(w, b, r) + 0 * b.sum()

    for got, expected in zip(
        gradients(carried, weight, bias, ratio), gradients(with_unused, weight, bias, ratio), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_a_constant_ratio_is_not_carried() -> None:
    """Without a gradient to give, weight and bias come back themselves."""
    weight, bias = randn(2, 3), randn(2)
    assert with_ratio_gradient(weight, bias, randn(2))[0] is weight
