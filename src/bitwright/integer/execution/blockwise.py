# SPDX-License-Identifier: MIT
"""Element-wise work on large tensors in blocks that stay in the cache: several passes for the memory traffic of one."""

from __future__ import annotations

import torch
from torch import Tensor

_BLOCK = 2**16
"""Elements for each thread: in float64, half of a second-level cache of 1 MiB."""


def blocks(values: Tensor) -> tuple[Tensor, ...]:
    """Views of shape (rows, channels) that together are all of `values`, whose second axis is that of the channels.

    Tensors that are not in channels-last order, and those on other devices than the CPU, are one block of any shape whose last
    axis is that of the channels.
    """
    last = values.movedim(1, -1)
    if values.device.type != "cpu" or not last.is_contiguous():
        return (last,)
    rows = last.view(-1, last.shape[-1])
    return torch.split(rows, max(1, _BLOCK * torch.get_num_threads() // rows.shape[1]))


def scale_round_(values: Tensor, ratio: Tensor, low: int, high: int) -> Tensor:
    """`round(clamp(values * ratio, low, high))` in place, halves to even, in the type of `ratio`: [channels] or [1]."""
    for block in blocks(values):
        if ratio.dtype is block.dtype:
            block.mul_(ratio).clamp_(low, high).round_()
        else:
            block.copy_(block.to(ratio.dtype).mul_(ratio).clamp_(low, high).round_())
    return values


def weighted_sum(
    first: Tensor, second: Tensor, ratios: tuple[float, float], low: int, high: int, reuse: bool
) -> Tensor:
    """`round(clamp(first * ratios[0] + second * ratios[1], low, high))`, in the place of `first` if that may be reused."""
    result = first if reuse else torch.empty_like(first)
    if result.stride() != first.stride() or second.stride() != first.stride():
        return torch.mul(first, ratios[0]).add_(second, alpha=ratios[1]).clamp_(low, high).round_()
    for out, one, other in zip(blocks(result), blocks(first), blocks(second), strict=True):
        torch.mul(one, ratios[0], out=out).add_(other, alpha=ratios[1]).clamp_(low, high).round_()
    return result
