# SPDX-License-Identifier: MIT
"""Batch norm folded into the scales of a layer's weights, so that running statistics never change an integer weight."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.graph.evaluate import Tensors, norm_affine
from bitwright.graph.nodes import Layer
from bitwright.training.straight_through import round_half_even

MAX_BIAS_BITS = 32
BIAS_MAX = 2**30  # a float32 number; leaves the other half of int32 to the products
UNIT_MIN = 2.0**-80  # of a channel that counts: BIAS_MAX / UNIT_MIN, which its gradient needs, is a float32 number


def sign_folded_weight(node: Layer, parameters: Tensors) -> Tensor:
    """The weight, shaped as the layer's, with the sign of each channel's batch norm: what is quantized.

    `weight_scale * |gain|` is then a scale of the folded weight, which has the same integers. A gain of zero counts as positive.
    """
    weight = parameters[node.weight]
    gain = None if node.norm is None or node.norm.weight is None else parameters[node.norm.weight]
    if gain is None:
        return weight
    return weight * _sign(gain).reshape(-1, *[1] * (weight.dim() - 1))


def folded_gain_and_bias(node: Layer, parameters: Tensors) -> tuple[Tensor | None, Tensor | None]:
    """What one unit of the sign-folded weight is worth, at least zero, and the bias; each of shape (channels,) or None.

    With gain g, offset b, running mean m and deviation s, and the layer's own bias c: `|g| / s`, and `(c - m) g / s + b`.
    """
    bias = None if node.bias is None else parameters[node.bias]
    if node.norm is None:
        return None, bias
    gain, offset = norm_affine(node.norm, parameters)
    return gain * _sign(gain), offset if bias is None else offset + bias * gain


def accumulator_unit(
    input_scale: Tensor, weight_scale: Tensor, gain: Tensor | None, bias: Tensor | None, integers: Tensor
) -> tuple[Tensor, Tensor]:
    """What one accumulator is worth, and the integer weights that go with it.

    A channel whose weights are so small that its bias would not fit beside their products (a gain of zero, a dead channel) is
    that bias alone: its weights become zero, and its unit the smallest at which the bias fits.

    Args:
        input_scale: Shape ().
        weight_scale: The weight scale of the sign-folded weight, shape (channels,).
        gain: Shape (channels,), or None for ones.
        bias: Shape (channels,), or None for zeros.
        integers: Shape (channels, ...), of the sign-folded weight.

    Returns:
        Shape (channels,), positive; and the integers.
    """
    unit = input_scale * weight_scale if gain is None else input_scale * weight_scale * gain
    least = torch.full_like(unit, UNIT_MIN)
    if bias is not None:
        least = torch.maximum(least, bias.detach().abs() / BIAS_MAX)
    lost = unit.detach() <= least
    if not bool(lost.any()):
        return unit, integers
    columns = lost.reshape(-1, *[1] * (integers.dim() - 1))
    return torch.where(lost, least, unit), integers.masked_fill(columns, 0.0)


def still_channels(node: Layer, parameters: Tensors) -> Tensor | None:
    """Channels whose weights do not train while batch norm is fixed, shape (channels,); None where there are none.

    Where the variance is nothing beside eps, eps alone makes the gain: 316 at 1e-5, for weights of 1e-8 as for others. One step
    of common size then moves such weights by thousands of times their size, and what they make by as much, which throws the
    whole network. While batch norm is free, it takes that back by the statistics of the batch.
    """
    if node.norm is None:
        return None
    still = parameters[node.norm.variance] <= node.norm.eps * 2.0**-10
    return still if bool(still.any()) else None


def bias_integers(bias: Tensor, unit: Tensor, limit: int = BIAS_MAX) -> Tensor:
    """The bias in accumulators, rounded to the nearest and clamped to +-limit, with a straight-through gradient."""
    return round_half_even((bias / unit).clamp(-limit, limit))


def _sign(gain: Tensor) -> Tensor:
    """1 or -1, without a gradient."""
    return torch.where(gain.detach() < 0, -torch.ones_like(gain), torch.ones_like(gain))
