# SPDX-License-Identifier: MIT
"""The same program for a general solver: HiGHS, relative gap 0, checked in whole numbers.

It serves where the enumeration of `solve` would grow too large, and to check it. HiGHS works in floating point, and accepts
what exceeds a limit by a millionth; so what it finds is checked in whole numbers, and excluded if it does not fit.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, milp

from bitwright.allocation.options import Int64

OBJECTIVE_RANGE = 1e5
"""HiGHS stops within 1e-6 of the best objective: a ten-billionth of what one group can lose."""


def best_by_highs(
    losses: Int64, amounts: Int64, room: Sequence[int], starts: Int64, keep: int = 1
) -> list[tuple[int, ...]]:
    """The `keep` picks of least loss, best first; fewer where fewer exist.

    Args:
        losses: The losses of each option; shape (options,).
        amounts: What each option uses; shape (limits, options).
        room: How much may be used of each.
        starts: Where the options of each group begin, and end; shape (groups + 1,).
        keep: How many.

    Returns:
        One option of each group.
    """
    found: list[tuple[int, ...]] = []
    refused: list[tuple[int, ...]] = []
    while len(found) < keep:
        picked = _solve(losses, amounts, room, starts, found + refused)
        if picked is None:
            break
        holds = all(int(row[list(picked)].sum()) <= most for row, most in zip(amounts, room, strict=True))
        (found if holds else refused).append(picked)
    return sorted(found, key=lambda picked: int(losses[list(picked)].sum()))


def _solve(
    losses: Int64, amounts: Int64, room: Sequence[int], starts: Int64, excluded: Sequence[tuple[int, ...]]
) -> tuple[int, ...] | None:
    sizes = np.diff(starts)
    group = np.repeat(np.arange(len(sizes)), sizes)
    count = len(losses)
    one_each = sparse.csr_matrix((np.ones(count), (group, np.arange(count))), shape=(len(sizes), count))
    rows, most = [], []
    for row, limit in zip(amounts, room, strict=True):
        least = np.minimum.reduceat(row, starts[:-1])
        left = int(limit) - int(least.sum())
        if left < 0:
            return None
        rows.append((row - least[group]) / max(1, left))
        most.append(left / max(1, left))
    for picked in excluded:
        rows.append(np.isin(np.arange(count), picked).astype(float))
        most.append(len(sizes) - 1)
    above = losses - np.minimum.reduceat(losses, starts[:-1])[group]
    constraints = [LinearConstraint(one_each, 1, 1)]
    if rows:
        constraints.append(LinearConstraint(sparse.csr_matrix(np.array(rows)), -np.inf, np.array(most)))
    with _quiet():
        result = milp(
            above * (OBJECTIVE_RANGE / max(1, int(above.max()))),
            constraints=constraints,
            integrality=np.ones(count),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": 0},
        )
    if result.x is None:
        return None
    return tuple(int(start + result.x[start:stop].argmax()) for start, stop in pairwise(starts))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep standard output clean: HiGHS 1.12 prints a line of its own there, whatever it is told (ERGO-Code/HiGHS#2783)."""
    if sys.platform == "win32":  # no C library to flush under one name
        yield
        return
    library = ctypes.CDLL(None)
    sys.stdout.flush()
    library.fflush(None)
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 1)
        yield
    finally:
        library.fflush(None)
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)
