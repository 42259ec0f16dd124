# SPDX-License-Identifier: MIT
"""Activations that are quantized at random while weights are learned, so that these suit more than one set of images."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.graph.nodes import Bounds
from bitwright.training.straight_through import clamp_round


class DroppedRounding:
    """Rounds a random part of all activations, and leaves the others as they would be in float.

    Args:
        share: The share of the activations that stay float, from 0 to 1.
        generator: The generator of the choice.

    Source:
        Wei et al. 2022, QDrop, arXiv:2203.05740, section 4.2.
    """

    def __init__(self, share: float, generator: torch.Generator) -> None:
        self.share = share
        self.generator = generator

    def __call__(self, scaled: Tensor, low: int, high: int, bounds: Bounds | None, scale: float) -> Tensor:
        """Activations in steps of `scale`: rounded to [low, high], or only clamped as the float network does."""
        rounded = clamp_round(scaled, low, high)
        if self.share == 0:
            return rounded
        if bounds is not None:
            first = None if bounds.minimum is None else bounds.minimum / scale
            last = None if bounds.maximum is None else bounds.maximum / scale
            scaled = scaled.clamp(first, last)
        return torch.where(self.chosen(scaled), scaled, rounded)

    def chosen(self, like: Tensor) -> Tensor:
        """Which of the values stay float."""
        return torch.rand(like.shape, generator=self.generator, device=like.device) < self.share
