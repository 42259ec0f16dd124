# SPDX-License-Identifier: MIT
"""All choices whose Lagrangian excess is small: few, if the multipliers are good."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bitwright.allocation.multipliers import Floats
from bitwright.allocation.options import Int64

SPREAD = 1.3
"""By what single multipliers are raised and lowered for further bounds; measured best among 1.01 to 2."""


@dataclass(frozen=True)
class Program:
    """A program in arrays, and multipliers for its limits. Made by `program_with_prices`.

    Attributes:
        losses: The losses of each option, in whole units; shape (options,).
        amounts: What each option uses, in whole units; shape (limits, options).
        room: How much may be used of each; shape (limits,).
        starts: Where the options of each group begin, and end; shape (groups + 1,).
        prices: Vectors of multipliers, the best first; shape (prices, limits).
        reduced: Reduced loss of each option under each: loss + price . amounts, above the least of its group; shape
            (prices, options).
        behind: How much the dual value of each vector falls short of the first's; shape (prices,).
        magnitude: Bounds the terms that are summed, to tell how far rounding can go.
    """

    losses: Int64
    amounts: Int64
    room: Int64
    starts: Int64
    prices: Floats
    reduced: Floats
    behind: Floats
    magnitude: float

    @property
    def everything(self) -> float:
        """An excess that no choice exceeds."""
        first = self.starts[:-1]
        return float(np.maximum.reduceat(self.reduced[0], first).sum() + self.prices[0] @ self.room)

    @property
    def margin(self) -> float:
        """Far more than rounding can add to an excess: each of its terms is right to 2**-52 of `magnitude`."""
        return 2.0**-44 * self.magnitude


def program_with_prices(losses: Int64, amounts: Int64, room: Int64, starts: Int64, price: Floats) -> Program:
    """Reduced losses under `price`, and under others near it."""
    prices = [price]
    for limit in np.flatnonzero(price > 0):
        for factor in (SPREAD, 1 / SPREAD):
            prices.append(price.copy())
            prices[-1][limit] *= factor
    stacked = np.array(prices)
    first = starts[:-1]
    group = np.repeat(np.arange(len(first)), np.diff(starts))
    reduced = losses + stacked @ amounts
    least = np.minimum.reduceat(reduced, first, axis=1)
    dual = least.sum(axis=1) - stacked @ room
    magnitude = float(least.max(axis=0).sum() + (stacked @ room).max())
    return Program(
        losses, amounts, room, starts, stacked, reduced - least[:, group], np.maximum(dual[0] - dual, 0), magnitude
    )


@dataclass(frozen=True)
class Enumeration:
    """What an enumeration found.

    Attributes:
        picks: One option of each group, for the best choices found, best first.
        excess: The Lagrangian excess of each.
        complete: Whether every choice of no more excess than was asked for would have been seen.
        states: How many partial choices were looked at.
    """

    picks: tuple[tuple[int, ...], ...]
    excess: tuple[float, ...]
    complete: bool
    states: int


def enumerate_choices(program: Program, most: float, keep: int, width: int, give_up: bool = False) -> Enumeration:
    """The `keep` best choices that fit and whose Lagrangian excess is at most `most`.

    For any multipliers y >= 0, the loss of a choice that fits is D(y) + the sum of its reduced losses + y . (room - what it
    uses), where D is the dual value. The two latter terms, its excess, are not negative. So a choice of excess at most `most`
    picks no option of a larger reduced loss; and a partial choice is given up when its reduced losses, those that must still
    come, and what must stay unused at the least exceed `most`, under any of several vectors y; or when what is still to come
    cannot fit. Of partial choices that use the same, only the `keep` best go on.

    Args:
        program: The groups, limits and multipliers.
        most: The largest excess under the first multipliers, in units of loss.
        keep: How many choices.
        width: At most this many partial choices go on, those of the least bound; beyond, the result is not complete.
        give_up: Return as soon as it cannot be complete.
    """
    amounts, losses, reduced, prices = program.amounts, program.losses, program.reduced, program.prices
    caps = most + program.behind + program.margin
    alive = (reduced <= caps[:, None]).all(axis=0)
    counts = np.add.reduceat(alive, program.starts[:-1], dtype=np.int64)
    if not counts.all():
        return Enumeration((), (), True, 0)
    options = np.split(np.flatnonzero(alive), np.cumsum(counts)[:-1])
    single = np.flatnonzero(counts == 1)
    fixed = np.array([options[group][0] for group in single], np.int64)
    core = [int(group) for group in np.flatnonzero(counts > 1)]
    least = {group: amounts[:, options[group]].min(axis=1) for group in core}
    greatest = {group: amounts[:, options[group]].max(axis=1) for group in core}
    cheapest = {group: reduced[:, options[group]].min(axis=1) for group in core}
    # Widest first: what is still open then says soon whether a partial choice can fit, and leave little unused.
    core.sort(key=lambda group: -float(prices[0] @ (greatest[group] - least[group])))

    used = amounts[:, fixed].sum(axis=1, keepdims=True)
    loss = losses[fixed].sum(keepdims=True)
    excess = reduced[:, fixed].sum(axis=1, keepdims=True)
    room = program.room - sum(least.values(), np.zeros_like(program.room))
    spare = program.room - sum(greatest.values(), np.zeros_like(program.room))
    caps = caps - sum(cheapest.values(), np.zeros(len(caps)))
    complete, states = True, 1
    trail: list[tuple[Int64, Int64]] = []
    for group in core:
        room, spare, caps = room + least[group], spare + greatest[group], caps + cheapest[group]
        own = options[group]
        parent, choice = np.nonzero(excess[0][:, None] + reduced[0, own] <= caps[0])
        option = own[choice]
        used = used.take(parent, axis=1) + amounts.take(option, axis=1)
        excess = excess.take(parent, axis=1) + reduced.take(option, axis=1)
        loss = loss[parent] + losses[option]
        bound = prices @ np.maximum(spare[:, None] - used, 0)
        bound += excess
        bound -= caps[:, None]
        bound = bound.max(axis=0)
        good = np.flatnonzero((used <= room[:, None]).all(axis=0) & (bound <= 0))
        states += len(good)
        if len(good) > 1:
            good = good[_distinct(used.take(good, axis=1), loss[good], keep)]
        if len(good) > width:
            complete = False
            if give_up:
                return Enumeration((), (), False, states)
            good = good[np.argpartition(bound[good], width)[:width]]
        used, excess, loss = used.take(good, axis=1), excess.take(good, axis=1), loss[good]
        trail.append((parent[good], option[good]))
    fits = np.flatnonzero((used <= program.room[:, None]).all(axis=0))
    order = fits[np.lexsort((*used[::-1, fits], loss[fits]))[:keep]]
    total = excess[0] + prices[0] @ (program.room[:, None] - used)
    picks = tuple(_trace(int(end), trail, core, single, fixed) for end in order)
    return Enumeration(picks, tuple(float(total[end]) for end in order), complete, states)


def _distinct(used: Int64, loss: Int64, keep: int) -> NDArray[np.intp]:
    """Indices of the partial choices that fewer than `keep` others of the same usage beat."""
    # One key for all limits; unequal usage of one key, should that ever be, is merely not merged.
    key = _MIX[: len(used)] @ used
    in_order = np.sort(key)
    if (in_order[1:] != in_order[:-1]).all():
        return np.arange(len(key))
    order = np.lexsort((loss, key))
    by_key = used[:, order]
    beaten = np.zeros(len(order), bool)
    beaten[keep:] = True
    for step in range(1, keep + 1):
        beaten[keep:] &= (by_key[:, keep:] == by_key[:, keep - step : len(order) - step]).all(axis=0)
    kept: NDArray[np.intp] = order[~beaten]
    return kept


_MIX = np.random.default_rng(0).integers(1, 2**62, size=4096) * 2 + 1


def _trace(end: int, trail: list[tuple[Int64, Int64]], core: list[int], single: Int64, fixed: Int64) -> tuple[int, ...]:
    """The option of every group, in order, from the last step back to the first."""
    picked = {int(group): int(option) for group, option in zip(single, fixed, strict=True)}
    for group, (parents, options) in zip(reversed(core), reversed(trail), strict=True):
        picked[group] = int(options[end])
        end = int(parents[end])
    return tuple(picked[group] for group in sorted(picked))
