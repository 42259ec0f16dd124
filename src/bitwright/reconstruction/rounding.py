# SPDX-License-Identifier: MIT
"""Learned rounding of weights: each goes up or down as the outputs want it, not as it is nearest."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bitwright.quantizer.formats import TensorFormat

ZETA, GAMMA = 1.1, -0.1
"""How far the sigmoid is stretched beyond [0, 1], so that it reaches both ends."""


class LearnedRounding(nn.Module):
    """`floor(w / s) + h(v)`, with `h` a rectified sigmoid of one variable for each weight, which starts at the weight itself.

    Args:
        scaled: Weights in steps of their scale, shape (channels, ...).
        window: The integers they may become.

    Source:
        Nagel et al. 2020, AdaRound, arXiv:2004.10568, equations 22 to 24.
    """

    floor: Tensor

    def __init__(self, scaled: Tensor, window: TensorFormat) -> None:
        super().__init__()
        self.window = window
        clamped = scaled.detach().clamp(window.quant_min, window.quant_max)
        floor = clamped.floor().clamp_max(window.quant_max - 1)
        self.register_buffer("floor", floor)
        share = (clamped - floor - GAMMA) / (ZETA - GAMMA)
        self.variable = nn.Parameter(torch.logit(share))

    def up(self) -> Tensor:
        """How far each weight is rounded up, from 0 to 1."""
        return (torch.sigmoid(self.variable) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def forward(self, scaled: Tensor) -> Tensor:
        """Values between integers; `scaled` is what they would be without rounding, and is not looked at again."""
        return self.floor + self.up()

    def integers(self) -> Tensor:
        """The integers decided for."""
        return self.floor + (self.variable.detach() >= 0)

    def indecision(self, beta: float) -> Tensor:
        """`sum(1 - |2 h - 1|**beta)`, shape (): zero where all have decided; the larger `beta`, the flatter in between."""
        return (1 - (2 * self.up() - 1).abs().pow(beta)).sum()


def annealed(step: int, steps: int, warm_up: float, first: float = 20.0, last: float = 2.0) -> float | None:
    """The exponent of the indecision at a step: None in the warm-up, then from `first` to `last` along half a cosine.

    >>> annealed(0, 100, 0.2), annealed(20, 100, 0.2), annealed(100, 100, 0.2)
    (None, 20.0, 2.0)
    """
    if step < warm_up * steps:
        return None
    done = (step / steps - warm_up) / (1 - warm_up)
    return last + (first - last) * (1 + math.cos(math.pi * done)) / 2
