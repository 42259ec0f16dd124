# SPDX-License-Identifier: MIT
"""Integers of weights that no other integer of a single weight would better, or nearly."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.quantizer.formats import TensorFormat

COLUMNS = 128
"""Weights of a channel after which all later ones learn what changed: less traffic than after each."""
SWEEPS = 3
"""Through all weights, at most: the second gains less than the first, and later ones hardly anything."""


def descended(integers: Tensor, weight: Tensor, matrix: Tensor, window: TensorFormat) -> Tensor:
    """Set one weight after another to its best integer, the others as they are, until none changes or the sweeps are through.

    What is decided one after another is decided without knowing what later ones become; this looks at each again.

    Args:
        integers: What to begin with, shape (groups, channels, weights of a channel), float64.
        weight: What they stand for, in steps of its scale, shaped as `integers`.
        matrix: What `integers - weight` loses by, positive definite, shape (groups, weights of a channel, weights of a channel).
        window: The integers that they may become.

    Returns:
        Shaped as `integers`; none loses more than before.

    Source:
        Behdin et al. 2023, QuantEase, arXiv:2309.01885, equation 9.
    """
    found, diagonal, count = integers.clone(), matrix.diagonal(dim1=1, dim2=2), integers.shape[2]
    for _ in range(SWEEPS):
        gradient, changed = (found - weight) @ matrix, False
        for begin in range(0, count, COLUMNS):
            end = min(begin + COLUMNS, count)
            block, slopes = matrix[:, begin:end, begin:end], gradient[:, :, begin:end].clone()
            steps = torch.zeros_like(slopes)
            for column in range(begin, end):
                old = found[:, :, column]
                best = old - slopes[:, :, column - begin] / diagonal[:, column, None]
                step = best.round().clamp(window.quant_min, window.quant_max) - old
                found[:, :, column] += step
                steps[:, :, column - begin] = step
                slopes += step[:, :, None] * block[:, None, column - begin]
            gradient[:, :, end:] += steps @ matrix[:, begin:end, end:]
            changed |= bool(steps.any())
        if not changed:
            break
    return found
