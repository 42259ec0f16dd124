# SPDX-License-Identifier: MIT
"""Batch norm by batch statistics under quantized, folded weights."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from bitwright.graph.execute import Tensors
from bitwright.graph.nodes import Conv2d, Linear

MOMENTUM = 0.1


def normalise_by_batch(
    node: Conv2d | Linear,
    accumulator: Tensor,
    unit: Tensor,
    scale: Tensor,
    parameters: Tensors,
    momentum: float = MOMENTUM,
) -> Tensor:
    """Batch norm by the statistics of this batch.

    Accumulators y of the oriented weight are worth `u = sign(g) unit y` before the norm, whose gain is g and whose offset is b.
    Its result `g (u - mean(u)) / sqrt(var(u) + eps) + b` is `|g| (y - mean(y)) / sqrt(var(y) + eps / unit^2) + b`. The running
    statistics follow those of u, as in PyTorch: `momentum` is the weight of the new value, whose variance is unbiased.

    Args:
        node: A layer with a norm.
        accumulator: Shape (batch, channels, ...), without bias.
        unit: Shape (channels,): what one accumulator is worth, before the norm.
        scale: Shape (): what one step of the result shall be worth.
        parameters: The float tensors by name; the running statistics among them are updated in place.
        momentum: Weight of this batch in the running statistics.

    Returns:
        Normalised outputs in steps of `scale`, not yet rounded.

    Source:
        Ioffe & Szegedy 2015, arXiv:1502.03167, algorithm 1.
    """
    assert node.norm is not None
    norm = node.norm
    gain = torch.ones_like(unit) if norm.weight is None else parameters[norm.weight]
    offset = torch.zeros_like(unit) if norm.bias is None else parameters[norm.bias]
    sign = torch.where(gain.detach() < 0, -1.0, 1.0).to(gain.dtype)
    result: Tensor
    result, mean, variance = _BatchNorm.apply(
        accumulator, norm.eps / unit.square(), gain * sign / scale, offset / scale
    )
    with torch.no_grad():
        count = accumulator.numel() // accumulator.shape[1]
        shift = 0 if node.bias is None else parameters[node.bias]
        parameters[norm.mean].lerp_(mean * unit * sign + shift, momentum)
        parameters[norm.variance].lerp_(variance * unit.square() * (count / max(count - 1, 1)), momentum)
    return result


class _BatchNorm(Function):
    """Batch norm with an eps of its own for each channel; also returns mean and biased variance, without gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, eps: Tensor, gain: Tensor, offset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, variance = torch.batch_norm_update_stats(values, None, None, 0.0)
        inverse = torch.rsqrt(variance + eps)
        columns = (-1, *[1] * (values.dim() - 2))
        factor = (gain * inverse).reshape(columns)
        result = torch.addcmul(offset.reshape(columns) - mean.reshape(columns) * factor, values, factor)
        ctx.save_for_backward(values, gain, mean, inverse)
        ctx.mark_non_differentiable(mean, variance)
        return result, mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, ...]:
        values, gain, mean, inverse = ctx.saved_tensors
        of_values, of_gain, of_offset = torch.ops.aten.native_batch_norm_backward(
            gradients[0], values, gain, None, None, mean, inverse, True, 0.0, [True, True, True]
        )
        # The result depends on eps only through 1 / sqrt(variance + eps), as it depends on the gain through the product.
        return of_values, of_gain * gain * inverse.square() * -0.5, of_gain, of_offset
