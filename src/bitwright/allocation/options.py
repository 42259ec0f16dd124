# SPDX-License-Identifier: MIT
"""The choices of a search as arrays: one group per layer or tie, some options in each, everything in whole numbers."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from bitwright.allocation.usage import Row
from bitwright.scheme import Precision

Int64 = NDArray[np.int64]

LOSS_BITS = 61
"""The losses of the worst choice add up to less than 2**61, so that sums and differences fit in int64."""


@dataclass(frozen=True)
class Options:
    """Groups of layers that are chosen together, and their options, one after the other.

    Attributes:
        groups: The layers of each group: those of a tie, or one.
        options: For each option, the precisions of the layers of its group.
        starts: Where the options of each group begin; one entry more than groups.
        losses: Loss of each option in whole units, see `whole_losses`.
    """

    groups: tuple[tuple[str, ...], ...]
    options: tuple[tuple[Precision, ...], ...]
    starts: Int64
    losses: Int64

    def amounts(self, row: Row) -> Int64:
        """What each option adds to a row, its constant apart."""
        return self._sums([row.amounts.get(layer) for group in self.groups for layer in group], 0)

    def choice(self, picked: Sequence[int]) -> dict[str, Precision]:
        """The precision of each layer, if these options are picked."""
        return {
            layer: precision
            for group, option in zip(self.groups, picked, strict=True)
            for layer, precision in zip(group, self.options[option], strict=True)
        }

    def with_losses(self, losses: Int64) -> Options:
        """The same options with another objective."""
        return Options(self.groups, self.options, self.starts, losses)

    def _sums(self, tables: Sequence[Mapping[Precision, int] | None], missing: int) -> Int64:
        sums, first = np.zeros(len(self.options), np.int64), 0
        for group, start, stop in zip(self.groups, self.starts, self.starts[1:], strict=False):
            own = tables[first : first + len(group)]
            first += len(group)
            for option in range(start, stop):
                sums[option] = sum(
                    missing if table is None else table[precision]
                    for table, precision in zip(own, self.options[option], strict=True)
                )
        return sums


def make_options(
    losses: Mapping[str, Mapping[Precision, float]],
    choices: Mapping[str, Sequence[Precision]],
    ties: Iterable[Sequence[str]],
) -> Options:
    """All options of all groups.

    Args:
        losses: By layer and precision.
        choices: The precisions that each layer may have.
        ties: Layers that must have the same activation bits; each layer is in one tie at most.
    """
    tied = {layer: tuple(tie) for tie in ties for layer in tie}
    groups = tuple(dict.fromkeys(tied.get(layer, (layer,)) for layer in choices))
    options: list[tuple[Precision, ...]] = []
    starts = [0]
    for group in groups:
        widths = [sorted({precision.act_bits for precision in choices[layer]}) for layer in group]
        for bits in widths[0]:
            own = [[precision for precision in choices[layer] if precision.act_bits == bits] for layer in group]
            options.extend(product(*own))
        starts.append(len(options))
    whole = whole_losses(losses)
    made = Options(groups, tuple(options), np.array(starts), np.zeros(len(options), np.int64))
    return made.with_losses(made.amounts(Row(whole)))


def whole_losses(losses: Mapping[str, Mapping[Precision, float]]) -> dict[str, dict[Precision, int]]:
    """Losses in units of a power of two so small that the search is exact.

    The unit is about 2**-61 of the sum of the largest magnitudes: finer than the rounding of a float64 that holds this sum.
    """
    largest = math.fsum(max(map(abs, table.values()), default=0.0) for table in losses.values())
    exponent = LOSS_BITS - 1 - math.frexp(largest)[1] if largest else 0
    return {
        layer: {precision: round(math.ldexp(loss, exponent)) for precision, loss in table.items()}
        for layer, table in losses.items()
    }
