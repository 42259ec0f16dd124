# SPDX-License-Identifier: MIT
"""Activations that are quantized at random while weights are learned, so that these suit more than one set of images."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from bitwright.graph.nodes import Bounds
from bitwright.training.straight_through import clamp_round

_BYTES = 256
"""Chance is drawn a byte for each value: eight times as fast as a float32 number, and as good for a share in 256ths."""


class DroppedRounding:
    """Rounds a random part of all activations, and leaves the others as they would be in float.

    Args:
        share: The share of the activations that stay float, from 0 to 1, to the nearest 256th.
        generator: The generator of the choice.

    Source:
        Wei et al. 2022, QDrop, arXiv:2203.05740, section 4.2.
    """

    def __init__(self, share: float, generator: torch.Generator) -> None:
        self.share = share
        self.generator = generator

    def __call__(self, scaled: Tensor, low: int, high: int, bounds: Bounds | None, scale: float) -> Tensor:
        """Activations in steps of `scale`: rounded to [low, high], or only clamped as the float network does."""
        if self.share == 0:
            return clamp_round(scaled, low, high)
        ends = (None, None) if bounds is None else (bounds.minimum, bounds.maximum)
        first = -math.inf if ends[0] is None else ends[0] / scale
        last = math.inf if ends[1] is None else ends[1] / scale
        result: Tensor = _RoundSome.apply(scaled, self.chosen(scaled), float(low), float(high), first, last)
        return result

    def mixed(self, rounded: Tensor, real: Tensor) -> Tensor:
        """`rounded`, with a random part of its values as they are in `real`; without a gradient."""
        return rounded if self.share == 0 else rounded.lerp(real, self.chosen(rounded))

    def chosen(self, like: Tensor) -> Tensor:
        """Which of the values stay float: 1 for these, 0 for others, shaped as `like` and of its type."""
        words = torch.empty((like.numel() + 7) // 8, dtype=torch.int64, device=like.device)
        words.random_(torch.iinfo(torch.int64).min, None, generator=self.generator)
        chance = words.view(torch.uint8)[: like.numel()].view(like.shape)
        below = round(self.share * _BYTES)
        return torch.ones_like(like) if below == _BYTES else (chance < below).to(like.dtype)


class _RoundSome(Function):
    """`where(chosen, clamp(values, first, last), clamp_round(values, low, high))`, and the gradient of what was taken.

    With weights of 0 and 1, `lerp` is exact, and several times as fast as `where` on a processor.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, chosen: Tensor, low: float, high: float, first: float, last: float) -> Tensor:
        ctx.save_for_backward(values, chosen)
        ctx.limits = (low, high), (first, last)
        return values.clamp(low, high).round_().lerp_(values.clamp(first, last), chosen)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        values, chosen = ctx.saved_tensors
        of_rounded, of_real = (torch.ops.aten.hardtanh_backward(gradients[0], values, *limits) for limits in ctx.limits)
        return of_rounded.lerp_(of_real, chosen), None, None, None, None, None
