# SPDX-License-Identifier: MIT
"""The choices of a search as arrays: one group per layer or tie, some options in each, everything in whole numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from operator import is_

import numpy as np
from numpy.typing import NDArray

from bitwright.allocation.usage import Row
from bitwright.errors import SchemeError
from bitwright.scheme import Precision

Int64 = NDArray[np.int64]

LOSS_BITS = 60
"""The losses of the worst choice add up to less than 2**60, so that sums and differences fit in int64."""

MAX_OPTIONS = 2**20
"""More than any network needs whose ties hold four layers, each of 49 precisions."""


@dataclass(frozen=True)
class Options:
    """Groups of layers that are chosen together, and their options, one after the other.

    Attributes:
        groups: The layers of each group: those of a tie, or one.
        choices: The precisions of each layer.
        indices: For each group, of shape (layers, options): which of its precisions each layer has in each option.
        starts: Where the options of each group begin, and, last, where they end; shape (groups + 1,).
        losses: Loss of each option in whole units, see `whole_losses`; shape (options,).
    """

    groups: tuple[tuple[str, ...], ...]
    choices: Mapping[str, tuple[Precision, ...]]
    indices: tuple[Int64, ...]
    starts: Int64
    losses: Int64

    def amounts(self, row: Row) -> Int64:
        """What each option adds to a row, its constant apart; shape (options,)."""
        sums = np.zeros(int(self.starts[-1]), np.int64)
        for group, indices, (start, stop) in zip(
            self.groups, self.indices, pairwise(self.starts.tolist()), strict=True
        ):
            for layer, index in zip(group, indices, strict=True):
                table, precisions = row.amounts.get(layer), self.choices[layer]
                if table is not None:
                    # Tables are mostly made in the order of the choices, which spares looking up each.
                    in_order = len(table) == len(precisions) and all(map(is_, table, precisions))
                    own = table.values() if in_order else (table[precision] for precision in precisions)
                    sums[start:stop] += np.array([*own], np.int64)[index]
        return sums

    def choice(self, picked: Sequence[int]) -> dict[str, Precision]:
        """The precision of each layer, if these options are picked."""
        return {
            layer: self.choices[layer][index[option - start]]
            for group, indices, start, option in zip(self.groups, self.indices, self.starts, picked, strict=False)
            for layer, index in zip(group, indices, strict=True)
        }

    def picked(self, choice: Mapping[str, Precision]) -> list[int]:
        """The option of each group that a choice of all layers picks: the inverse of `choice`."""
        found = []
        for group, indices, start in zip(self.groups, self.indices, self.starts.tolist(), strict=False):
            wanted = np.array([[self.choices[layer].index(choice[layer])] for layer in group])
            found.append(start + int(np.flatnonzero((indices == wanted).all(axis=0))[0]))
        return found

    def with_losses(self, losses: Int64) -> Options:
        """The same options with another objective."""
        return replace(self, losses=losses)


def make_options(
    losses: Mapping[str, Mapping[Precision, float]],
    choices: Mapping[str, tuple[Precision, ...]],
    ties: Iterable[Sequence[str]],
) -> Options:
    """All options of all groups.

    Args:
        losses: By layer and precision.
        choices: The precisions that each layer may have.
        ties: Layers that must have the same activation bits; each layer is in one tie at most.

    Raises:
        SchemeError: If a tie has more options than can be searched.
    """
    tied = {layer: tuple(tie) for tie in ties for layer in tie}
    groups = tuple(dict.fromkeys(tied.get(layer, (layer,)) for layer in choices))
    indices = tuple(_group_options([choices[layer] for layer in group], group) for group in groups)
    starts = np.cumsum([0, *(index.shape[1] for index in indices)])
    made = Options(groups, choices, indices, starts, np.zeros(int(starts[-1]), np.int64))
    return made.with_losses(made.amounts(Row(whole_losses(losses))))


def _group_options(choices: Sequence[Sequence[Precision]], group: Sequence[str]) -> Int64:
    """Every combination of the layers' precisions with equal activation bits; shape (layers, options)."""
    made = _combinations(tuple(tuple(precision.act_bits for precision in layer) for layer in choices))
    if made is None:
        raise SchemeError(
            f"the tied layers {', '.join(group)} have over {MAX_OPTIONS} combinations; search among fewer precisions."
        )
    return made


@lru_cache(maxsize=64)
def _combinations(layers: tuple[tuple[int, ...], ...]) -> Int64 | None:
    """Places of equal numbers in all layers, shape (layers, combinations); None if there are too many.

    Most groups of a network are alike, and so are those of one search after another.
    """
    parts = []
    for bits in sorted(set(layers[0])):
        own = [[i for i, other in enumerate(layer) if other == bits] for layer in layers]
        if math.prod(map(len, own)) > MAX_OPTIONS:
            return None
        parts.append(np.stack([axis.ravel() for axis in np.meshgrid(*own, indexing="ij")]))
    made = np.concatenate(parts, axis=1).astype(np.int64)
    made.flags.writeable = False
    return made


def whole_losses(losses: Mapping[str, Mapping[Precision, float]]) -> dict[str, dict[Precision, int]]:
    """Losses in whole units of a power of two.

    The unit is about 2**-60 of the sum of the largest magnitudes: finer than the rounding of a float64 that holds this sum.

    >>> whole_losses({"conv": {Precision(8, 8): 0.5, Precision(4, 4): 1.0}})["conv"][Precision(4, 4)] == 2**59
    True
    """
    exponent = loss_exponent(losses)
    return {
        layer: {precision: round(math.ldexp(loss, exponent)) for precision, loss in table.items()}
        for layer, table in losses.items()
    }


def loss_exponent(losses: Mapping[str, Mapping[Precision, float]]) -> int:
    """Of the power of two that losses are multiplied by to become whole."""
    largest = math.fsum(max(map(abs, table.values()), default=0.0) for table in losses.values())
    return LOSS_BITS - math.frexp(largest)[1] if largest else 0
