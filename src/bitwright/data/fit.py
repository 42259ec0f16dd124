# SPDX-License-Identifier: MIT
"""Bringing images in memory to the size that a model wants."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MAX_PADDING = 4


def fit(pixels: Tensor, size: int) -> Tensor:
    """Make images `size` pixels high and wide.

    Up to 4 pixels a side are added as zeros (black), which keeps every pixel: 28 x 28 digits become 32 x 32. Where
    more is missing, or the images are too large, they are resized (bilinear, with antialiasing when they shrink).

    Args:
        pixels: uint8 [batch, channels, height, width].
        size: Height and width wanted, in pixels.

    Returns:
        uint8 [batch, channels, size, size].

    >>> fit(torch.full((1, 1, 2, 2), 7, dtype=torch.uint8), 4)[0, 0].tolist()
    [[0, 0, 0, 0], [0, 7, 7, 0], [0, 7, 7, 0], [0, 0, 0, 0]]
    """
    rows, columns = size - pixels.shape[2], size - pixels.shape[3]
    if min(rows, columns) >= 0 and max(rows, columns) <= 2 * MAX_PADDING:
        return F.pad(pixels, (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2))
    resized = F.interpolate(pixels.to(torch.float32), (size, size), mode="bilinear", antialias=True)
    return resized.round().clamp(0, 255).to(torch.uint8)
