# SPDX-License-Identifier: MIT
"""The zoo's table: published and recomputed size and bit operations side by side, with the reason wherever they differ."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bitwright.progress import Progress, silent
from bitwright.scheme import Scheme
from bitwright.zoo.conventions import bops_hypotheses, printed, reason, size_hypotheses
from bitwright.zoo.counts import Counts, stored_counts
from bitwright.zoo.names import FLOAT
from bitwright.zoo.registry import Row, published_scheme, rows

SIZE_DECIMALS, BOPS_DECIMALS = 1, 0


@dataclass(frozen=True)
class Comparison:
    """One figure, published and recomputed.

    Attributes:
        published: As printed.
        recomputed: By the conventions of `graph.cost`.
        decimals: Printed places after the point.
        reason: Why the printed digits differ; empty where they agree.
    """

    published: float
    recomputed: float
    decimals: int
    reason: str

    @property
    def agrees(self) -> bool:
        return printed(self.published, self.decimals) == printed(self.recomputed, self.decimals)


@dataclass(frozen=True)
class TableRow:
    """A row of the zoo with its recomputed figures.

    Attributes:
        row: As published.
        size: In MB (2**20 bytes).
        bops: Bit operations for one image, in 10**9.
    """

    row: Row
    size: Comparison
    bops: Comparison


def scheme_of(row: Row, layers: Iterable[str] | None = None) -> Scheme | None:
    """The published bits of a row, or None for float."""
    return None if row.scheme == FLOAT else published_scheme(row.model, row.scheme, layers=layers)


def zoo_table(
    chosen: Iterable[Row] | None = None,
    *,
    counts: Callable[[str], Counts] = stored_counts,
    progress: Progress = silent,
) -> tuple[TableRow, ...]:
    """Compute size and bit operations of rows and compare them with the published ones.

    Args:
        chosen: Rows; None means all.
        counts: The counts of a network by its name: those stored, or `counting.count_network`, which captures it in seconds.
        progress: Told about every row.
    """
    wanted = rows() if chosen is None else tuple(chosen)
    made = []
    for done, row in enumerate(wanted, 1):
        made.append(_table_row(row, counts(row.model)))
        progress(done, len(wanted))
    return tuple(made)


def _table_row(row: Row, costs: Counts) -> TableRow:
    scheme = scheme_of(row, costs.layers)
    cost = costs.of(scheme)
    size = Comparison(row.size_mb, cost.size_mb, SIZE_DECIMALS, "")
    bops = Comparison(row.bops_g, cost.bops_g, BOPS_DECIMALS, "")
    if not size.agrees:
        why = reason(size.published, SIZE_DECIMALS, size_hypotheses(row, costs.layers, scheme))
        size = Comparison(row.size_mb, cost.size_mb, SIZE_DECIMALS, why)
    if not bops.agrees:
        why = reason(bops.published, BOPS_DECIMALS, bops_hypotheses(row, costs.layers, scheme))
        bops = Comparison(row.bops_g, cost.bops_g, BOPS_DECIMALS, why)
    return TableRow(row, size, bops)
