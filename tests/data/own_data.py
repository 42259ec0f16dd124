# SPDX-License-Identifier: MIT
"""Factories of data as users write them, found as `data.own_data:NAME`."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from bitwright.data import ImageData, load_data

CLASSES = ("zero", "one")


def tensors(count: int, start: int = 0) -> tuple[Tensor, Tensor]:
    """Images [count, 1, 4, 4] that tell their number, and labels 0 and 1 in turn."""
    numbers = torch.arange(start, start + count, dtype=torch.float32)
    return numbers.reshape(-1, 1, 1, 1).expand(count, 1, 4, 4).contiguous(), numbers.long() % 2


class Samples(Dataset[tuple[Tensor, int]]):
    """A map-style set with names of classes; its labels are known only by reading its samples."""

    classes = CLASSES

    def __init__(self, count: int, start: int = 0) -> None:
        self.images, self.labels = tensors(count, start)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], int(self.labels[index])


class Noisy(Samples):
    """One whose transform draws random numbers."""

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = super().__getitem__(index)
        return image + torch.rand(1), label


def sets() -> tuple[Samples, Samples]:
    """Sets of samples."""
    return Samples(6), Samples(4, 6)


def loaders() -> tuple[DataLoader[tuple[Tensor, int]], DataLoader[tuple[Tensor, int]]]:
    """Loaders, one of which shuffles."""
    train, test = sets()
    return DataLoader(train, batch_size=2, shuffle=True), DataLoader(test, batch_size=3)


def batches() -> dict[str, object]:
    """Lists of batches, and what is known of them."""
    pairs = [list(zip(*(part.split(2) for part in tensors(*place)), strict=True)) for place in ((6,), (4, 6))]
    return {"train": pairs[0], "test": pairs[1], "classes": CLASSES, "mean": 0.5, "std": [0.25]}


def subsets() -> tuple[object, ...]:
    """Parts of one set, and names."""
    whole = TensorDataset(*tensors(10))
    return Subset(whole, range(6)), Subset(whole, range(6, 10)), CLASSES


def noisy() -> tuple[Noisy, Noisy]:
    """Sets whose transforms draw."""
    return Noisy(6), Noisy(4, 6)


def digits(image_size: int | None = None, mean: tuple[float, ...] | None = None) -> ImageData:
    """The embedded ones, as asked for, but for the standard deviation."""
    data = load_data("mnist-5k", image_size=image_size)
    return ImageData(**vars(data) | {"mean": mean or (0.25,), "std": (0.5,)})


def silent_digits() -> tuple[object, object]:
    """The embedded ones, by somebody who does not say how they are normalised."""
    data = load_data("mnist-5k")
    return data.train, data.test


def raising() -> None:
    """Fails."""
    raise ValueError("no such bucket")


def nothing() -> int:
    """Returns no data."""
    return 3


def byte_images() -> tuple[object, object]:
    """Returns pixels."""
    whole = TensorDataset(tensors(4)[0].byte(), tensors(4)[1])
    return whole, whole


def too_few_names() -> tuple[object, ...]:
    """Names fewer classes than there are."""
    return (*sets(), ("one",))
