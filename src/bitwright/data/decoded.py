# SPDX-License-Identifier: MIT
"""Pictures that are decoded when they are read, wherever they lie, with torchvision's preprocessing and augmentation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import final

import torch
from PIL import Image
from torch import Tensor

from bitwright.data.image_data import ImageData
from bitwright.data.image_set import ImageSet
from bitwright.data.preprocessing import Preprocessing
from bitwright.data.processors import processors
from bitwright.data.request import Request
from bitwright.errors import DataError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, as every published model was trained with."""

DEFAULT_SIZE = 224
INTERPOLATION = "bilinear"
MAX_WORKERS = 8
TORCHVISION = Preprocessing(MEAN, STD, interpolation=INTERPOLATION)


@final
class UnreadableImageError(DataError):
    """An image that cannot be decoded, said in one line wherever it happens.

    A DataLoader raises what a worker raised once more, with the traceback of the worker for a message: all but its last
    line is dropped here.
    """

    def __init__(self, message: str) -> None:
        super().__init__(
            message.rstrip().splitlines()[-1].removeprefix(f"{type(self).__module__}.{type(self).__name__}: ")
        )


class DecodedImages(ImageSet):
    """Pictures decoded when they are read.

    Read as they are, a picture's shorter side is resized to `how.resize`, and the centre is cut out. Augmented, a part of random
    area and shape is cut out and resized, and mirrored half of the time (torchvision's RandomResizedCrop and
    RandomHorizontalFlip).

    Args:
        labels: int64 [images].
        how: How they are made; what is not said is as torchvision does it.
    """

    def __init__(self, labels: Tensor, how: Preprocessing) -> None:
        from torchvision import transforms  # takes seconds to import, which only those pay who have pictures

        self.labels = labels.to(torch.int64)
        self.workers = min(MAX_WORKERS, processors())
        size, side = how.crop or DEFAULT_SIZE, how.resize or resize_size(how.crop or DEFAULT_SIZE)
        to_tensor = [transforms.ToTensor(), transforms.Normalize(how.mean or MEAN, how.std or STD)]
        filter_ = transforms.InterpolationMode(how.interpolation or INTERPOLATION)
        self._centre = transforms.Compose([transforms.Resize(side, filter_), transforms.CenterCrop(size), *to_tensor])
        self._random = transforms.Compose(
            [transforms.RandomResizedCrop(size, interpolation=filter_), transforms.RandomHorizontalFlip(), *to_tensor]
        )

    @abstractmethod
    def picture(self, index: int) -> Image.Image:
        """One picture, in RGB.

        Raises:
            OSError, SyntaxError, ValueError: If it cannot be read.
        """

    @abstractmethod
    def place(self, index: int) -> str:
        """Where it lies, for messages."""

    @final
    def read(self, indices: Sequence[int] | Tensor, augment_seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Decode a batch."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        if augment_seed is None:
            images = [self._decode(index, self._centre) for index in chosen.tolist()]
        else:
            # torchvision draws from torch's global generator on the CPU: seed it, and put it back afterwards.
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(augment_seed)
                images = [self._decode(index, self._random) for index in chosen.tolist()]
        return torch.stack(images), self.labels[chosen]

    def _decode(self, index: int, transform: Callable[[Image.Image], Tensor]) -> Tensor:
        """One picture, float32 [3, size, size]."""
        try:
            return transform(self.picture(index))
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            reason = " ".join(str(error).split())
            raise UnreadableImageError(f"cannot read the image '{self.place(index)}': {reason}.") from error


def resize_size(image_size: int) -> int:
    """What the shorter side is resized to before the centre is cut out.

    >>> resize_size(224), resize_size(299)
    (256, 342)
    """
    return round(image_size * 256 / 224)


def preprocessing_of(request: Request, kind: str) -> Preprocessing:
    """How pictures are made for a request: torchvision's way but for what was asked for.

    Args:
        request: What was asked for.
        kind: The source of the data, for messages.

    Raises:
        DataError: If it cannot be.
    """
    if request.channels == 1:
        raise DataError(f"{kind} gives colour images of 3 channels, not 1.")
    size = request.image_size or request.preprocessing.crop or DEFAULT_SIZE
    standard = Preprocessing(MEAN, STD, resize_size(size), interpolation=INTERPOLATION)
    how = replace(request.preprocessing.over(standard).of_channels(3), crop=size)
    if how.resize is not None and how.resize < size:
        raise DataError(f"expected to resize to at least the {size} pixels that are cut out, got {how.resize}.")
    return how


def pictures_data(
    name: str, classes: Sequence[str], train: ImageSet, test: ImageSet, how: Preprocessing, source: str
) -> ImageData:
    """A data set of pictures that are made so."""
    size = how.crop or DEFAULT_SIZE
    return ImageData(
        name=name,
        classes=tuple(classes),
        shape=(3, size, size),
        train=train,
        test=test,
        mean=how.mean or MEAN,
        std=how.std or STD,
        source=source,
        resize=how.resize,
        interpolation=how.interpolation,
    )
