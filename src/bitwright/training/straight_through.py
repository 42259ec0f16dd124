# SPDX-License-Identifier: MIT
"""Arithmetic of quantization-aware training: exact integers forward, straight-through gradients backward.

Activations are large and scales are small, so every function here reads a large tensor as few times as it can; literal forms
with the same values and gradients are in its tests.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def round_half_even(values: Tensor) -> Tensor:
    """Round to the nearest integer, halves to even; the gradient passes straight through."""
    return values + (values.round() - values).detach()


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """`values`, with the gradient multiplied by `factor`."""
    return (values - values * factor).detach() + values * factor


def clamp_round(values: Tensor, low: int, high: int) -> Tensor:
    """`round(clamp(values))`, halves to even; the gradient passes where `low < values < high`, and is zero elsewhere."""
    result: Tensor = _ClampRound.apply(values, float(low), float(high))
    return result


def with_ratio_gradient(weight: Tensor, bias: Tensor | None, ratio: Tensor) -> tuple[Tensor, Tensor | None]:
    """Weight and bias as they are, through which `ratio` gets the gradient of the channels that they make.

    The accumulator of a channel is linear in its weights w and bias b, so by Euler's theorem on homogeneous functions the
    loss L of `ratio * accumulator` has `ratio dL/dratio = w · dL/dw + b dL/db`. The right side is known once the weights have
    their gradients: no pass over the activations is needed. Multiply the accumulator by `ratio.detach()`.

    Args:
        weight: Shape (channels, ...).
        bias: Shape (channels,), or None.
        ratio: Shape (channels,), not zero.
    """
    if not ratio.requires_grad:
        return weight, bias
    if bias is None:
        same: Tensor = _RatioGradient.apply(weight, weight.new_zeros(len(ratio)), ratio)[0]
        return same, None
    pair: tuple[Tensor, Tensor] = _RatioGradient.apply(weight, bias, ratio)
    return pair


def scale_by(values: Tensor, ratio: Tensor) -> Tensor:
    """`values * ratio`, for a ratio of shape ()."""
    result: Tensor = _ScaleBy.apply(values, ratio)
    return result


def weighted_sum(first: Tensor, first_ratio: Tensor, second: Tensor, second_ratio: Tensor) -> Tensor:
    """`first * first_ratio + second * second_ratio`, for ratios of shape ()."""
    result: Tensor = _WeightedSum.apply(first, first_ratio, second, second_ratio)
    return result


class _ClampRound(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, low: float, high: float) -> Tensor:
        ctx.save_for_backward(values)
        ctx.limits = low, high
        return values.clamp(low, high).round_()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (values,) = ctx.saved_tensors
        # One kernel for "where low < values < high".
        return torch.ops.aten.hardtanh_backward(gradients[0], values, *ctx.limits), None, None


class _RatioGradient(Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, bias: Tensor, ratio: Tensor) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(weight, bias, ratio)
        return weight.view_as(weight), bias.view_as(bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        weight, bias, ratio = ctx.saved_tensors
        of_weight, of_bias = gradients
        total = (of_weight * weight).flatten(1).sum(1) + of_bias * bias
        return of_weight, of_bias, total / ratio


class _ScaleBy(Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, ratio: Tensor) -> Tensor:
        ctx.save_for_backward(values, ratio)
        return values * ratio

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, Tensor | None]:
        values, ratio = ctx.saved_tensors
        (gradient,) = gradients
        of_values, of_ratio = ctx.needs_input_grad
        return gradient * ratio if of_values else None, _dot(gradient, values) if of_ratio else None


class _WeightedSum(Function):
    @staticmethod
    def forward(ctx: Any, first: Tensor, first_ratio: Tensor, second: Tensor, second_ratio: Tensor) -> Tensor:
        ctx.save_for_backward(first, first_ratio, second, second_ratio)
        return torch.addcmul(first * first_ratio, second, second_ratio)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        first, first_ratio, second, second_ratio = ctx.saved_tensors
        (gradient,) = gradients
        needed = ctx.needs_input_grad
        return (
            gradient * first_ratio if needed[0] else None,
            _dot(gradient, first) if needed[1] else None,
            gradient * second_ratio if needed[2] else None,
            _dot(gradient, second) if needed[3] else None,
        )


def _dot(first: Tensor, second: Tensor) -> Tensor:
    """Sum of products, shape ()."""
    if first.dim() == 4 and first.is_contiguous(memory_format=torch.channels_last):
        # In this order of the axes it is already flat: `reshape` copies nothing.
        first, second = first.permute(0, 2, 3, 1), second.permute(0, 2, 3, 1)
    return torch.dot(first.reshape(-1), second.reshape(-1))
