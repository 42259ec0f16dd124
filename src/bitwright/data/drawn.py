# SPDX-License-Identifier: MIT
"""Some images of what a user gives in batches, to observe ranges on: of all of them wherever they can be reached, not the first.

Files lie in the order of their classes, and loaders for evaluation keep it: the first 512 images are then all of one class, and
the ranges of every other class are never seen.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler

from bitwright.data.given import checked, each_images, has_labels, in_one, labelled, only_images
from bitwright.data.loader import SeededOrder
from bitwright.errors import BitwrightWarning, DataError

FEW = 32
"""Labels of fewer images may be in order by chance."""
BATCH = 64
_PLAIN = (SequentialSampler, RandomSampler, SeededOrder)
"""Samplers that go through all images once: any choice of these is a fair one."""


def draw_images(batches: Iterable[Any], count: int, seed: int = 0) -> Tensor:
    """Up to `count` images of the batches, as they come out of them.

    Of a DataLoader whose set is read by number, and of a list of batches, they are a seeded choice of all images, in their order.
    Of anything else they are the first, and a warning says so where these come in the order of their labels.

    Args:
        batches: A DataLoader or another iterable of batches.
        count: How many images, where there are as many.
        seed: Of the choice.

    Raises:
        DataError: If these are no batches, there is none, or the images are not of one shape.
    """
    if _is_plain(batches):
        found = list(each_images(_of_loader(batches, count, seed)))
    elif isinstance(batches, list | tuple):
        found = list(_of_list([*each_images(batches)], count, seed))
    else:
        found = list(_first(batches, count))
    if not found:
        raise DataError("expected at least one batch of images to observe, got none.")
    return in_one(found, "images")


def choose(total: int, count: int, seed: int) -> Tensor:
    """Which of so many: int64 [count], ascending; all where there are no more.

    >>> choose(3, 5, seed=0)
    tensor([0, 1, 2])
    """
    if count >= total:
        return torch.arange(total)
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count].sort().values


def _is_plain(batches: object) -> bool:
    """Whether it is a loader of a set that is read by number, each image once."""
    if not isinstance(batches, DataLoader) or isinstance(batches.dataset, IterableDataset):
        return False
    sampler = getattr(batches.batch_sampler, "sampler", None)
    return isinstance(sampler, _PLAIN) and not getattr(sampler, "replacement", False)


def _of_loader(loader: Any, count: int, seed: int) -> DataLoader[Any]:
    """The same loader over a choice of its images."""
    chosen: list[int] = choose(len(loader.dataset), count, seed).tolist()
    size = loader.batch_size or BATCH
    return DataLoader(
        loader.dataset,
        batch_sampler=[chosen[start : start + size] for start in range(0, len(chosen), size)],
        collate_fn=loader.collate_fn,
        num_workers=loader.num_workers,
        worker_init_fn=loader.worker_init_fn,
        generator=torch.Generator().manual_seed(seed),
    )


def _of_list(batches: Sequence[Tensor], count: int, seed: int) -> Iterator[Tensor]:
    """A choice of the images of all batches."""
    chosen, start = choose(sum(map(len, batches)), count, seed), 0
    for images in batches:
        own = chosen[(start <= chosen) & (chosen < start + len(images))] - start
        yield images[own]
        start += len(images)


def _first(batches: Iterable[Any], count: int) -> Iterator[Tensor]:
    """The first images of what can only be gone through."""
    labels: list[Tensor] = []
    seen = 0
    for batch in checked(batches):
        images = only_images(batch)[: count - seen]
        yield images
        if has_labels(batch):
            labels.append(labelled(batch)[1][: len(images)])
        seen += len(images)
        if seen >= count:
            break
    _warn_of_order(labels)


def _warn_of_order(labels: Sequence[Tensor]) -> None:
    """Say that labels never descend: of so many images in any other order, they would."""
    if not labels or any(part.ndim != 1 for part in labels):
        return
    found = torch.cat(list(labels))
    if len(found) >= FEW and bool((found[1:] >= found[:-1]).all()):
        warnings.warn(
            f"the first {len(found)} images, which ranges are observed on, come in the order of their classes, "
            f"{int(found[0])} to {int(found[-1])}: others are not seen. Shuffle what gives them.",
            BitwrightWarning,
            stacklevel=4,
        )
