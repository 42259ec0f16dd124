# SPDX-License-Identifier: MIT
"""The best choices under limits, exactly.

General solvers take seconds for a hundred layers of seven precisions and three budgets. The structure helps: one choice in
each group, few limits. Lagrange multipliers (`multipliers`) leave only a few groups open, and a dynamic program over these
(`enumerate_choices`) sees every choice that can be best. What fits, and what is less, is decided in whole numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bitwright.allocation.enumerate import Program, enumerate_choices, program_with_prices
from bitwright.allocation.highs import best_by_highs
from bitwright.allocation.multipliers import multipliers
from bitwright.allocation.options import Int64, Options

FEW_STATES, MANY_STATES = 400, 400_000
"""Partial choices that are kept while looking for a good choice, and while proving that none is better."""

FIRST = 30
"""The excess that is looked at first is the reduced loss of this option, from the smallest."""

GROWTH = 2.0
"""By what the excess that is looked at grows until enough choices are found."""

NEXT = 1.2
"""Where some are found but not enough, the others are looked for within this many times their excess, at once to the proof."""


@dataclass(frozen=True)
class Limit:
    """One linear limit: the amounts of the picked options add up to at most `most`.

    Attributes:
        amounts: Whole units of each option; shape (options,).
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
    starts, losses = options.starts, options.losses
    first = starts[:-1]
    group = np.repeat(np.arange(len(first)), np.diff(starts))
    rows, room = [], []
    for limit in limits:
        least = np.minimum.reduceat(limit.amounts, first)
        above = limit.amounts - least[group]
        left = limit.most - int(least.sum())
        if left < 0:
            return []
        if int(np.maximum.reduceat(above, first).sum()) > left:
            rows.append(above)
            room.append(left)
    amounts = np.array(rows, np.int64).reshape(len(rows), len(losses))
    least_loss = np.minimum.reduceat(losses, first)
    above_loss = losses - least_loss[group]
    price = multipliers(above_loss.astype(float), amounts.astype(float), np.array(room, float), starts)
    if price is None:
        return []
    program = program_with_prices(above_loss, amounts, np.array(room, np.int64), starts, price)
    found = _search(program, keep)
    return best_by_highs(above_loss, amounts, room, starts, keep) if found is None else found


def _search(program: Program, keep: int) -> list[tuple[int, ...]] | None:
    """The best choices by enumeration; None if that is too much."""
    steps = np.sort(program.reduced[0][program.reduced[0] > 0])
    everything = program.everything
    most = float(steps[min(len(steps), FIRST) - 1]) if len(steps) else 0.0
    while True:
        found = enumerate_choices(program, most, keep, FEW_STATES)
        if len(found.picks) == keep or most >= everything:
            break
        if found.picks:
            near = enumerate_choices(program, NEXT * found.excess[-1], keep, MANY_STATES, give_up=True)
            if near.complete and len(near.picks) == keep:
                return list(near.picks)
        most = min(most * GROWTH or everything, everything)
    if found.complete and (most >= everything or found.excess[-1] <= most):
        return list(found.picks)
    worst = found.excess[-1] if len(found.picks) == keep else everything
    proof = enumerate_choices(program, worst, keep, MANY_STATES, give_up=True)
    return list(proof.picks) if proof.complete else None
