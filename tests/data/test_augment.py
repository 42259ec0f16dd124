# SPDX-License-Identifier: MIT
"""Random crops and flips."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from bitwright.data.augment import random_crop, random_flip


def _images(count: int, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(1, 256, (count, 3, 5, 7), generator=generator, dtype=torch.uint8)


def test_every_crop_is_a_window_of_its_padded_image(generator: torch.Generator) -> None:
    """Each image becomes one of the 25 windows of its padded self, and all 25 occur."""
    images = _images(600, generator)
    cropped = random_crop(images, 2, generator)
    assert cropped.shape == images.shape
    assert cropped.dtype == images.dtype
    padded = F.pad(images, (2, 2, 2, 2))
    seen = set()
    for image, result in zip(padded, cropped, strict=True):
        windows = {
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(image[:, top : top + 5, left : left + 7], result)
        }
        assert len(windows) == 1
        seen |= windows
    assert len(seen) == 25


def test_no_padding_changes_nothing(generator: torch.Generator) -> None:
    """Cropping without padding is the identity."""
    images = _images(3, generator)
    assert torch.equal(random_crop(images, 0, generator), images)


def test_half_of_the_images_are_mirrored(generator: torch.Generator) -> None:
    """Each image is itself or its mirror image, about as often."""
    images = _images(400, generator)
    flipped = random_flip(images, generator)
    same = (flipped == images).all(dim=3).all(dim=2).all(dim=1)
    mirrored = (flipped == images.flip(3)).all(dim=3).all(dim=2).all(dim=1)
    assert bool((same ^ mirrored).all())
    assert 160 < int(mirrored.sum()) < 240
