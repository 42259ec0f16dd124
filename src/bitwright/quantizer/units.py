# SPDX-License-Identifier: MIT
"""What the integers of a tensor are worth, one by one, after nodes that move them: units move along.

A unit has one number for a whole tensor, of shape () or (1,); one for each channel, the first axis behind the batch, of shape
(channels,); or, where integers of one channel come from several, as many axes as the tensor without its batch, of size one where
it does not change.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from bitwright.graph.evaluate import select
from bitwright.graph.nodes import MaxPool2d, Selection


def across(unit: Tensor, rank: int) -> Tensor:
    """`unit` with as many axes as a tensor of `rank` axes without its batch, to be multiplied by its integers."""
    return unit if unit.dim() in (0, rank) else unit.reshape(-1, *[1] * (rank - 1))


def moved_unit(node: Selection, unit: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """The unit of what `node` makes of a tensor.

    Args:
        node: What moves or selects.
        unit: The unit of the tensor that it reads.
        shape: The shape of that tensor, without its batch.

    Returns:
        None where the node compares integers of different worth.
    """
    if unit.numel() == 1:
        return unit
    places = _places(node, tuple(unit.shape), shape)
    return None if places is None else unit.flatten()[places.to(unit.device)]


@lru_cache(maxsize=256)
def _places(node: Selection, unit: tuple[int, ...], shape: tuple[int, ...]) -> Tensor | None:
    """For each integer of the result, where its unit stands in the flattened unit of the input."""
    places = across(torch.arange(torch.Size(unit).numel(), dtype=torch.float64).reshape(unit), len(shape)).expand(shape)
    if isinstance(node, MaxPool2d) and not bool((places == places[:, :1, :1]).all()):
        return None
    places = select(node, places[None])[0].long()
    for axis in range(places.dim()):
        first = places.narrow(axis, 0, 1)
        places = first if bool((places == first).all()) else places
    return places.flatten() if places.numel() == len(places) else places
