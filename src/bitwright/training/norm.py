# SPDX-License-Identifier: MIT
"""Batch norm by batch statistics under quantized, folded weights."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.graph.execute import Tensors
from bitwright.graph.nodes import Conv2d, Linear

MOMENTUM = 0.1


def normalise_by_batch(node: Conv2d | Linear, accumulator: Tensor, unit: Tensor, parameters: Tensors) -> Tensor:
    """Correct accumulators of weights folded with running statistics to the statistics of this batch.

    With running deviation s, batch deviation t of the unfolded output, gain g and offset b, the folded convolution gives
    `y = (g / s) u`, and the norm by batch statistics is `g (u - mean(u)) / t + b = (y - mean(y)) s / t + b`. The running
    statistics are updated from u, as batch norm would (PyTorch's convention: 0.1 is the weight of the new value).

    Args:
        node: A layer with a norm.
        accumulator: Shape (batch, channels, ...), without bias.
        unit: Shape (channels,): what one accumulator is worth.
        parameters: The float tensors by name; the running statistics among them are updated in place.

    Returns:
        Accumulators with the offset added, in the same units.
    """
    assert node.norm is not None
    norm = node.norm
    axes = [axis for axis in range(accumulator.dim()) if axis != 1]
    columns = (1, -1, *[1] * (accumulator.dim() - 2))
    running = torch.sqrt(parameters[norm.variance] + norm.eps)
    gain = torch.ones_like(running) if norm.weight is None else parameters[norm.weight]
    # u = y / (g / s); its statistics follow from those of y, with a gain of zero left as it is.
    unfold = unit * running / torch.where(gain == 0, torch.ones_like(gain), gain)
    mean, variance = accumulator.mean(axes), accumulator.var(axes, unbiased=False)
    batch_variance = variance * unfold**2
    with torch.no_grad():
        count = accumulator.numel() // accumulator.shape[1]
        unbiased = batch_variance * (count / max(count - 1, 1))
        shift = 0 if node.bias is None else parameters[node.bias]
        parameters[norm.mean].lerp_(mean * unfold + shift, MOMENTUM)
        parameters[norm.variance].lerp_(unbiased, MOMENTUM)
    ratio = running / torch.sqrt(batch_variance + norm.eps)
    offset = torch.zeros_like(gain) if norm.bias is None else parameters[norm.bias]
    return (accumulator - mean.reshape(columns)) * ratio.reshape(columns) + (offset / unit).reshape(columns)
