# SPDX-License-Identifier: MIT
"""Seeded choices: a share of every class, and new seeds from old ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from bitwright.errors import DataError


def stratified(labels: Tensor, count: int, seed: int, *, cover: bool = False) -> Tensor:
    """Choose `count` images at random, such that each class keeps its share.

    Each class first gets its exact share rounded down; what is left goes, one image each, to the classes whose shares
    lost most (ties at random). To cover, the classes that have most then give one image each to those that have none.

    Args:
        labels: int64 [images].
        count: Images to choose, from 1 to all.
        seed: The seed of the choice.
        cover: Whether as many classes as possible shall be among the images, rare ones beyond their share.

    Returns:
        int64 [count], positions in ascending order.

    Raises:
        DataError: If there are not that many images.

    >>> stratified(torch.tensor([0, 0, 0, 0, 1, 1]), 3, seed=0).shape
    torch.Size([3])
    """
    total = len(labels)
    if not 1 <= count <= total:
        raise DataError(f"cannot choose {count:,} of {total:,} images: ask for 1 to {total:,}.")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(total, generator=generator)
    order = order[labels[order].argsort(stable=True)]
    sizes = torch.bincount(labels)
    quotas, lost = sizes * count // total, sizes * count % total
    by_chance = torch.randperm(len(sizes), generator=generator)
    first = by_chance[lost[by_chance].argsort(descending=True, stable=True)]
    quotas[first[: count - int(quotas.sum())]] += 1
    if cover:
        # In the order of their lost shares, so that of too many rare classes the least rare come first.
        for absent in [label for label in first.tolist() if sizes[label] and not quotas[label]]:
            most = int(quotas.argmax())
            if quotas[most] < 2:
                break
            quotas[most] -= 1
            quotas[absent] += 1
    rank = torch.arange(total) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return order[rank < quotas.repeat_interleave(sizes)].sort().values


def spread(labels: Tensor, seed: int) -> Tensor:
    """An order of images in which every stretch has its share of each class, and those of one class follow each other as before.

    Folders are read class by class, and the frames of a film one after another: so neither half of the images lacks a class, nor
    has it the neighbours of what the other half has.

    Args:
        labels: int64 [images].
        seed: Of where classes of few images stand.

    Returns:
        int64 [images], a permutation of positions.

    >>> spread(torch.tensor([0, 0, 0, 0, 1, 1]), seed=0)[:3].sort().values
    tensor([0, 1, 4])
    """
    generator = torch.Generator().manual_seed(seed)
    order = labels.argsort(stable=True)
    sizes = torch.bincount(labels)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    first = torch.rand(len(sizes), generator=generator, dtype=torch.float64)
    return ((rank + first[labels]) / sizes[labels]).argsort(stable=True)


def derive_seed(*parts: Iterable[int] | int) -> int:
    """A 32-bit seed that depends on every number given; neighbours do not resemble each other.

    >>> derive_seed(0, [1, 2]) == derive_seed(0, [1, 2]) != derive_seed(0, [2, 1])
    True
    """
    numbers = [[part] if isinstance(part, int) else [int(number) for number in part] for part in parts]
    return int.from_bytes(hashlib.blake2b(repr(numbers).encode(), digest_size=4).digest())
