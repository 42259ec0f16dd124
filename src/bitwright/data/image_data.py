# SPDX-License-Identifier: MIT
"""A data set with its two splits and all that a model must know about it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from bitwright.data.image_set import ImageSet
from bitwright.data.loader import batches
from bitwright.data.preprocessing import Preprocessing
from bitwright.data.sampling import spread, stratified
from bitwright.errors import unknown_name


@dataclass(frozen=True, eq=False)
class ImageData:
    """Images to train with, and others, held out, to test with.

    Attributes:
        name: As it was loaded, for instance `fashion-mnist`.
        classes: Names, by label.
        shape: Channels, height and width of an image.
        train: Images to fit weights and ranges to.
        test: Held-out images.
        mean: Subtracted from each channel of pixels from 0 to 1; nothing where that is not known.
        std: Each channel is divided by it, afterwards.
        source: Where the images came from, in words.
        resize: What the shorter side of a picture is resized to before the middle is cut out, where it is.
        interpolation: Of that.
        fixed_size: Whether the images come in this one size, which the network must read.
    """

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    train: ImageSet
    test: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    resize: int | None = None
    interpolation: str | None = None
    fixed_size: bool = False

    @property
    def preprocessing(self) -> Preprocessing:
        """How pixels became these images, as far as it is known."""
        if not self.mean:
            return Preprocessing()
        return Preprocessing(self.mean, self.std, self.resize, self.shape[1], self.interpolation)

    def split(self, name: str) -> ImageSet:
        """The images called `train` or `test`.

        Raises:
            UnknownNameError: If it is neither.
        """
        splits = {"train": self.train, "test": self.test}
        if name not in splits:
            raise unknown_name("split", name, splits)
        return splits[name]

    def batches(
        self,
        split: str,
        batch_size: int,
        *,
        shuffle: bool = False,
        augment: bool = False,
        seed: int = 0,
        drop_last: bool = False,
        workers: int | None = None,
    ) -> DataLoader[tuple[Tensor, Tensor]]:
        """Loop over `train` or `test` in batches; see `bitwright.data.batches`."""
        images = self.split(split)
        return batches(
            images, batch_size, shuffle=shuffle, augment=augment, seed=seed, drop_last=drop_last, workers=workers
        )

    def calibration(self, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Some training images, not augmented, to observe ranges or sensitivities on: of as many classes as possible.

        Args:
            count: How many.
            seed: The seed of the choice.

        Returns:
            Images, float32 [count, channels, height, width], and labels, int64 [count].

        Raises:
            DataError: If there are not that many.
        """
        return self.train.read(self._calibrating(count, seed))

    def spread_calibration(self, count: int, seed: int = 0) -> Tensor:
        """The images of `calibration`, in an order in which any part of them has all classes alike: see `sampling.spread`."""
        chosen = self._calibrating(count, seed)
        return self.train.read(chosen[spread(self.train.labels[chosen], seed)])[0]

    def _calibrating(self, count: int, seed: int) -> Tensor:
        return stratified(self.train.labels, count, seed, cover=True)

    def __str__(self) -> str:
        shape, seen = "x".join(map(str, self.shape)), int(torch.bincount(self.train.labels).count_nonzero())
        classes = f"{seen:,} of " if seen < len(self.classes) else ""
        return (
            f"{self.name}: {len(self.train):,} training and {len(self.test):,} test images of {shape} "
            f"in {classes}{len(self.classes):,} classes"
        )
