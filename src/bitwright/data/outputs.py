# SPDX-License-Identifier: MIT
"""Which output of a model each class of a data set is: the one rule, for every command that looks at labels.

A model has as many outputs as its weights say. Where a data set has fewer classes, each is found by its name if these are
synsets of ImageNet and the model tells ImageNet's 1,000 classes apart; else class k is output k, as in the published command.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import final

import torch
from torch import Tensor

from bitwright.data.image_data import ImageData
from bitwright.data.image_set import ImageSet
from bitwright.errors import DataError

_SYNSET = re.compile(r"(n\d{8})(?![0-9A-Za-z])")
"""What a folder's name may begin with: `n01440764`, `n01440764-tench`."""


@dataclass(frozen=True, eq=False)
class Matched:
    """A data set whose labels are outputs of a model.

    Attributes:
        data: The data set.
        how: Which class is which output, in one line; empty where it has as many classes as the model.
    """

    data: ImageData
    how: str


@cache
def imagenet_synsets() -> tuple[str, ...]:
    """The 1,000 classes of ImageNet (ILSVRC 2012) in the order of every published model's outputs, which is that of their names.

    >>> imagenet_synsets()[0], imagenet_synsets()[701], len(imagenet_synsets())
    ('n01440764', 'n03888257', 1000)
    """
    return tuple(files("bitwright.data").joinpath("imagenet_synsets.txt").read_text(encoding="ascii").split())


def match_outputs(data: ImageData, outputs: int) -> Matched:
    """Make the labels of `data` outputs of a model.

    Args:
        data: Images with labels by their own classes.
        outputs: How many classes the model tells apart.

    Returns:
        The data set, with labels from 0 to `outputs - 1`, and how its classes were matched.

    Raises:
        DataError: If it has more classes than the model outputs.
    """
    own = len(data.classes)
    if own == outputs:
        return Matched(data, "")
    if own > outputs:
        raise DataError(
            f"the model has {outputs:,} outputs, but {data.name} has {own:,} classes: take images of the model's classes, "
            f"or train a new head from a model's name, with --classes {own} or --replace-head."
        )
    synsets = imagenet_synsets()
    positions = list(_positions(data.classes)) if outputs == len(synsets) else []
    if positions and None not in positions and len(set(positions)) == own:
        found = torch.tensor(positions)
        how = (
            f"the {own:,} classes of {data.name} are {own:,} of the model's {outputs:,}, by their synsets: '{data.classes[0]}' "
            f"is output {positions[0]}, '{data.classes[-1]}' is output {positions[-1]}"
        )
        train, test = (Relabelled(images, found) for images in (data.train, data.test))
        return Matched(replace(data, classes=synsets, train=train, test=test), how)
    how = (
        f"{data.name} has {own:,} classes, the model {outputs:,} outputs: they are taken for outputs 0 to {own - 1}, in the "
        f"order of their names"
    )
    if outputs == len(synsets):
        stranger = next((name for name, at in zip(data.classes, positions, strict=True) if at is None), None)
        reason = "two folders name one synset" if stranger is None else f"'{stranger}' is no synset of ImageNet"
        how += f" ({reason})"
    return Matched(data, how)


@final
class Relabelled(ImageSet):
    """The images of another set under other labels.

    Args:
        parent: The set that is read.
        label_of: int64 [classes], the new label of each of the parent's.
    """

    def __init__(self, parent: ImageSet, label_of: Tensor) -> None:
        self.parent = parent
        self.labels = label_of[parent.labels]
        self.workers = parent.workers

    def read(self, indices: Sequence[int] | Tensor, augment_seed: int | None = None) -> tuple[Tensor, Tensor]:
        """Read a batch of the parent."""
        chosen = torch.as_tensor(indices, dtype=torch.int64)
        return self.parent.read(chosen, augment_seed)[0], self.labels[chosen]


def _positions(names: Sequence[str]) -> Iterator[int | None]:
    """Where the synset that each name begins with stands among ImageNet's, or None."""
    places = {synset: place for place, synset in enumerate(imagenet_synsets())}
    for name in names:
        found = _SYNSET.match(name)
        yield places.get(found[1]) if found else None
