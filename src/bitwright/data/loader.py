# SPDX-License-Identifier: MIT
"""Batches in a seeded order, as a plain DataLoader that Accelerate can prepare and divide between processes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, final

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, Sampler

from bitwright.data.image_set import ImageSet
from bitwright.data.processors import processors
from bitwright.data.sampling import derive_seed
from bitwright.errors import DataError

Batch = tuple[Tensor, Tensor]


@final
class SeededOrder(Sampler[int]):
    """The order of one epoch, a function of seed and epoch alone.

    Each pass is the next epoch; `set_epoch` (which Accelerate calls) goes to any, so that a resumed training sees the
    order that it would have seen.
    """

    def __init__(self, length: int, *, shuffle: bool, seed: int) -> None:
        self.length = length
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass that of `epoch`."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        epoch, self.epoch = self.epoch, self.epoch + 1
        if not self.shuffle:
            return iter(range(self.length))
        generator = torch.Generator().manual_seed(derive_seed(self.seed, epoch))
        return iter(torch.randperm(self.length, generator=generator).tolist())


@final
class _Batched(Dataset[Batch]):
    """What a DataLoader sees: it hands over all indices of a batch and gets the batch back, whole."""

    def __init__(self, images: ImageSet, *, augment: bool, seed: int) -> None:
        self.images = images
        self.augment = augment
        self.seed = seed

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Batch:
        return self.__getitems__([index])

    def __getitems__(self, indices: list[int]) -> Batch:
        # The batch's own indices seed its augmentation: no state to keep, the same in any worker and after resuming.
        return self.images.read(indices, derive_seed(self.seed, indices) if self.augment else None)


def _as_it_is(batch: Any) -> Any:
    """Collate nothing: `__getitems__` already made the batch."""
    return batch


def batches(
    images: ImageSet,
    batch_size: int,
    *,
    shuffle: bool = False,
    augment: bool = False,
    seed: int = 0,
    drop_last: bool = False,
    workers: int | None = None,
) -> DataLoader[Batch]:
    """Loop over a data set in batches; every run with the same arguments gives the same batches.

    Args:
        images: What to read.
        batch_size: Images in a batch; the last one may be smaller.
        shuffle: Whether each pass has its own random order.
        augment: Whether images are cropped (and flipped, where that is right) at random; use it with `shuffle`, since
            the draw belongs to the images of a batch and their order.
        seed: The seed of the order and the augmentation.
        drop_last: Whether to leave out a last, smaller batch.
        workers: Processes that read ahead, at most as many as this one may use processors; None takes what suits the data set
            (none for images in memory).

    Returns:
        A DataLoader of (float32 [batch, channels, height, width], int64 [batch]). `Accelerator.prepare` divides its
        batches between processes.

    Raises:
        DataError: If `batch_size` is below 1.
    """
    if batch_size < 1:
        raise DataError(f"expected a batch size of at least 1, got {batch_size}.")
    workers = min(images.workers if workers is None else workers, processors())
    return DataLoader(
        _Batched(images, augment=augment, seed=seed),
        batch_sampler=BatchSampler(SeededOrder(len(images), shuffle=shuffle, seed=seed), batch_size, drop_last),
        collate_fn=_as_it_is,
        num_workers=workers,
        pin_memory=workers > 0 and torch.cuda.is_available(),
        # Its own generator, so that reading data leaves torch's global one alone.
        generator=torch.Generator().manual_seed(seed),
    )
