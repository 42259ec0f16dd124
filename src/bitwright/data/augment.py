# SPDX-License-Identifier: MIT
"""Random crops and flips of a whole batch, each image with its own draw."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def random_crop(images: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `padding` pixels each way, filling with zeros.

    Args:
        images: [batch, channels, height, width], any type.
        padding: Pixels of zeros added on every side, before cropping to the former size.
        generator: Where the offsets come from.

    Returns:
        The same shape and type.
    """
    batch, _, height, width = images.shape
    windows = F.pad(images, (padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
    top, left = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator)
    return windows[torch.arange(batch), :, top, left]


def random_flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image [batch, channels, height, width] left to right, with probability one half."""
    mirrored = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(mirrored[:, None, None, None], images.flip(3), images)
