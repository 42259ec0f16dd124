# SPDX-License-Identifier: MIT
"""A part of a data set, in which each class keeps its share."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import ROUND_UP, Decimal
from typing import final

import torch
from torch import Tensor

from bitwright.data.image_set import ImageSet
from bitwright.data.sampling import stratified
from bitwright.errors import DataError


@final
class ImageSubset(ImageSet):
    """Some images of another set.

    Args:
        parent: The set that is read.
        indices: int64 [images], positions in `parent`.
    """

    def __init__(self, parent: ImageSet, indices: Tensor) -> None:
        self.parent = parent
        self.indices = indices
        self.labels = parent.labels[indices]
        self.workers = parent.workers

    def read(self, indices: Sequence[int] | Tensor, augment_seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Read a batch of the parent."""
        return self.parent.read(self.indices[torch.as_tensor(indices, dtype=torch.int64)], augment_seed)

    def __str__(self) -> str:
        there = torch.bincount(self.parent.labels)
        sizes = torch.bincount(self.labels, minlength=len(there))[there > 0]
        fewest, most = int(sizes.min()), int(sizes.max())
        each = f"{most:,}" if fewest == most else f"{fewest:,} to {most:,}"
        return f"{len(self):,} of {len(self.parent):,} images, {each} of each class"


def subset(images: ImageSet, fraction: float, seed: int = 0) -> ImageSubset:
    """Choose a fraction of the images at random, the same fraction of every class.

    Args:
        images: The set to choose from.
        fraction: Above 0, at most 1; see `part_of`.
        seed: The seed of the choice.

    Returns:
        The images; `len` counts them, and `str` reports how many there are of each class.

    Raises:
        DataError: If the fraction is out of range, or leaves no image.

    >>> from bitwright.data import load_data
    >>> print(subset(load_data("mnist-5k").train, 0.1))
    400 of 4,000 images, 40 of each class
    """
    return ImageSubset(images, stratified(images.labels, part_of(len(images), fraction), seed))


def part_of(total: int, fraction: float) -> int:
    """How many of `total` images a fraction is, rounded down as in HAWQ-V3: of ImageNet's, 0.0001 are 128 and 0.01 are 12,811.

    Half an image and more is one, so that 0.0001 of a set of 9,469, Imagenette's, can be trained on. What floats lose is made up
    for: 0.29 of 100 are 29, and count / total of total are count.

    Raises:
        DataError: If it is not above 0 and at most 1, or leaves no image; names the least that leaves one.

    >>> part_of(1_281_167, 0.01), part_of(100, 0.29), part_of(9_469, 0.0001)
    (12811, 29, 1)
    """
    if not 0 < fraction <= 1:
        raise DataError(f"expected a fraction above 0 and at most 1, got {fraction}.")
    exact = fraction * total * (1 + 1e-12)
    if exact < 0.5:
        least = Decimal("0.5") / total
        shown = least.quantize(Decimal(1).scaleb(least.adjusted() - 2), ROUND_UP).normalize()
        raise DataError(
            f"{fraction:g} of {total:,} images leave none: the least that works is {shown:f}, which is one image."
        )
    return max(1, int(exact))
