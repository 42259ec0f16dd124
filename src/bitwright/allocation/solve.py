# SPDX-License-Identifier: MIT
"""The best choices under limits: an integer program solved by HiGHS with relative gap 0, checked in whole numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from bitwright.allocation.options import Int64, Options


@dataclass(frozen=True)
class Limit:
    """One linear limit: the amounts of the picked options add up to at most `most`.

    Attributes:
        amounts: Whole units of each option.
        most: Whole units allowed.
    """

    amounts: Int64
    most: int


def best(options: Options, limits: Sequence[Limit], keep: int = 1) -> list[tuple[int, ...]]:
    """The `keep` choices of least loss, best first; fewer where fewer exist.

    Args:
        options: The groups; one option is picked in each.
        limits: All must hold.
        keep: How many choices.

    Returns:
        The picked options of each choice, one for each group.
    """
    found: list[tuple[int, ...]] = []
    refused: list[tuple[int, ...]] = []
    while len(found) < keep:
        picked = _highs(options, limits, found + refused)
        if picked is None:
            break
        # HiGHS works in floating point, to a tolerance; whole numbers decide.
        holds = all(int(limit.amounts[list(picked)].sum()) <= limit.most for limit in limits)
        (found if holds else refused).append(picked)
    return found


def _highs(options: Options, limits: Sequence[Limit], excluded: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    count = len(options.options)
    sizes = np.diff(options.starts)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    one_each = sparse.csr_matrix((np.ones(count), (groups, np.arange(count))), shape=(len(sizes), count))
    rows: list[NDArray[np.float64]] = []
    bounds: list[float] = []
    for limit in limits:
        least = np.minimum.reduceat(limit.amounts, options.starts[:-1])
        room = limit.most - int(least.sum())
        above = limit.amounts - least[groups]
        if room < 0:
            return None
        unit = max(1, room)
        rows.append(above / unit)
        bounds.append(room / unit)
    for picked in excluded:
        row = np.zeros(count)
        row[list(picked)] = 1
        rows.append(row)
        bounds.append(len(sizes) - 1)
    lowest = np.minimum.reduceat(options.losses, options.starts[:-1])
    above = options.losses - lowest[groups]
    scale = float(above.max()) or 1.0
    constraints = [LinearConstraint(one_each, 1, 1)]
    if rows:
        constraints.append(LinearConstraint(sparse.csr_matrix(np.array(rows)), -np.inf, np.array(bounds)))
    result = milp(
        above * (1e4 / scale),
        constraints=constraints,
        integrality=np.ones(count),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": 0},
    )
    if result.x is None:
        return None
    return tuple(
        int(start + np.argmax(result.x[start:stop]))
        for start, stop in zip(options.starts, options.starts[1:], strict=False)
    )
