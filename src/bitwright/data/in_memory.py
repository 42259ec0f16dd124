# SPDX-License-Identifier: MIT
"""Small data sets: all pixels in memory as uint8, cropped, flipped, fitted and normalised a batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor

from bitwright.data.augment import random_crop, random_flip
from bitwright.data.fit import fit
from bitwright.data.image_set import ImageSet
from bitwright.errors import DataError

CROP_PADDING = 2


@final
class InMemoryImages(ImageSet):
    """Images held as uint8; a batch is made by one indexing operation, with no loop over samples.

    Args:
        pixels: uint8 [images, channels, height, width].
        labels: int64 [images].
        mean: The mean of each channel, with pixels from 0 to 1; several for pixels of a single channel repeat that channel.
        std: The standard deviation of each channel, likewise.
        image_size: Height and width of what is read, see `fit`; None keeps the pixels' own.
        flip: Whether augmentation mirrors images; it must not where left and right matter, as in digits.

    Raises:
        DataError: If the shapes do not go together.
    """

    workers = 0

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        image_size: int | None = None,
        flip: bool = False,
    ) -> None:
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or labels.shape != pixels.shape[:1]:
            raise DataError(
                "expected uint8 pixels [images, channels, height, width] and as many labels, "
                f"got {pixels.dtype} {list(pixels.shape)} and {list(labels.shape)}."
            )
        if len(mean) != len(std) or pixels.shape[1] not in (1, len(mean)):
            raise DataError(
                f"expected a mean and a standard deviation for each channel of pixels {list(pixels.shape)}, "
                f"got {len(mean)} and {len(std)}."
            )
        self.pixels = pixels
        self.labels = labels.to(torch.int64)
        self.image_size = image_size
        self.flip = flip
        self._mean = torch.tensor(mean, dtype=torch.float32)[:, None, None]
        self._std = torch.tensor(std, dtype=torch.float32)[:, None, None]

    def read(self, indices: Sequence[int] | Tensor, augment_seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Read a batch. The augmentation pads by 2, crops to the size of the pixels, then flips if `flip`."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        pixels = self.pixels[chosen]
        if augment_seed is not None:
            generator = torch.Generator().manual_seed(augment_seed)
            pixels = random_crop(pixels, CROP_PADDING, generator)
            if self.flip:
                pixels = random_flip(pixels, generator)
        if self.image_size is not None:
            pixels = fit(pixels, self.image_size)
        # As torchvision's ToTensor and Normalize, in the same order, so that the floats are the same to the last bit.
        images = pixels.to(torch.float32).div(255).sub(self._mean).div(self._std)
        return images, self.labels[chosen]
