# SPDX-License-Identifier: MIT
"""All choices whose Lagrangian excess is small: few, if the multipliers are good."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    caps = most + program.behind + program.margin
    live = _live_options(program, caps)
    if live is None:
        return Enumeration((), (), True, 0)
    # Widest first: what is still open then says soon whether a partial choice can fit, and leave little unused.
    groups = sorted(
        (_Group.of(number, own, program) for number, own in enumerate(live) if len(own) > 1),
        key=lambda group: -group.spread,
    )
    settled = {number: int(own[0]) for number, own in enumerate(live) if len(own) == 1}
    partials = _Partials.of(np.array([*settled.values()], np.int64), program)
    complete, states = True, 1
    trail: list[tuple[Int64, Int64]] = []
    for group, ahead in zip(groups, _ahead_of_each(groups, program), strict=True):
        parent, option, partials, bound = _extended(partials, group, ahead, caps, program)
        states += len(bound)
        good = _distinct(partials.used, partials.loss, keep)
        if len(good) > width:
            complete = False
            if give_up:
                return Enumeration((), (), False, states)
            good = good[np.argpartition(bound[good], width)[:width]]
        partials = partials.only(good)
        trail.append((parent[good], option[good]))
    fits = np.flatnonzero((partials.used <= program.room[:, None]).all(axis=0))
    order = fits[np.lexsort((*partials.used[::-1, fits], partials.loss[fits]))[:keep]]
    total = partials.excess[0] + program.prices[0] @ (program.room[:, None] - partials.used)
    picks = tuple(_trace(int(end), trail, groups, settled) for end in order)
    return Enumeration(picks, tuple(float(total[end]) for end in order), complete, states)


@dataclass(frozen=True)
class _Group:
    """A group of which more than one option can still be taken.

    Attributes:
        number: Which one.
        options: The options that can be taken.
        least: What any of them uses at the least, of each limit; shape (limits,).
        greatest: And at the most.
        cheapest: The least reduced loss of any, under each vector of multipliers; shape (prices,).
        spread: The price of the difference between most and least.
    """

    number: int
    options: Int64
    least: Int64
    greatest: Int64
    cheapest: Floats
    spread: float

    @classmethod
    def of(cls, number: int, options: Int64, program: Program) -> _Group:
        amounts = program.amounts[:, options]
        least, greatest = amounts.min(axis=1), amounts.max(axis=1)
        spread = float(program.prices[0] @ (greatest - least))
        return cls(number, options, least, greatest, program.reduced[:, options].min(axis=1), spread)


@dataclass(frozen=True)
class _Ahead:
    """What the groups that are still open use together, at the least and at the most, and what they cost at the least."""

    least: Int64
    greatest: Int64
    cheapest: Floats


def _ahead_of_each(groups: Sequence[_Group], program: Program) -> list[_Ahead]:
    """What is open behind each group."""
    ahead = _Ahead(np.zeros_like(program.room), np.zeros_like(program.room), np.zeros(len(program.prices)))
    found = []
    for group in reversed(groups):
        found.append(ahead)
        ahead = _Ahead(ahead.least + group.least, ahead.greatest + group.greatest, ahead.cheapest + group.cheapest)
    return found[::-1]


@dataclass(frozen=True)
class _Partials:
    """Partial choices: an option of each group so far.

    Attributes:
        used: What each uses; shape (limits, partial choices).
        loss: The loss of each; shape (partial choices,).
        excess: Its reduced losses; shape (prices, partial choices).
    """

    used: Int64
    loss: Int64
    excess: Floats

    @classmethod
    def of(cls, options: Int64, program: Program) -> _Partials:
        """One, of these options."""
        return cls(
            program.amounts[:, options].sum(axis=1, keepdims=True),
            program.losses[options].sum(keepdims=True),
            program.reduced[:, options].sum(axis=1, keepdims=True),
        )

    def only(self, which: NDArray[np.intp]) -> _Partials:
        return _Partials(self.used.take(which, axis=1), self.loss[which], self.excess.take(which, axis=1))

    def with_options(self, options: Int64, program: Program) -> _Partials:
        """Each with one option more."""
        return _Partials(
            self.used + program.amounts.take(options, axis=1),
            self.loss + program.losses[options],
            self.excess + program.reduced.take(options, axis=1),
        )


def _live_options(program: Program, caps: Floats) -> list[Int64] | None:
    """The options of each group whose reduced loss alone exceeds no cap; None where a group has none."""
    alive = (program.reduced <= caps[:, None]).all(axis=0)
    counts = np.add.reduceat(alive, program.starts[:-1], dtype=np.int64)
    return np.split(np.flatnonzero(alive), np.cumsum(counts)[:-1]) if counts.all() else None


def _extended(
    partials: _Partials, group: _Group, ahead: _Ahead, caps: Floats, program: Program
) -> tuple[Int64, Int64, _Partials, Floats]:
    """Partial choices with an option more that can still fit, and stay within the caps.

    Returns:
        Of each: what it extends, by which option, itself, and how far the most pressing of its bounds is from the cap.
    """
    caps = caps - ahead.cheapest
    parent, place = np.nonzero(partials.excess[0][:, None] + program.reduced[0, group.options] <= caps[0])
    option = group.options[place]
    found = partials.only(parent).with_options(option, program)
    bound = program.prices @ np.maximum((program.room - ahead.greatest)[:, None] - found.used, 0)
    bound += found.excess
    bound -= caps[:, None]
    worst = bound.max(axis=0)
    good = np.flatnonzero((found.used <= (program.room - ahead.least)[:, None]).all(axis=0) & (worst <= 0))
    return parent[good], option[good], found.only(good), worst[good]


def _distinct(used: Int64, loss: Int64, keep: int) -> NDArray[np.intp]:
    """Indices of the partial choices that fewer than `keep` others of the same usage beat."""
    if len(loss) <= keep:
        return np.arange(len(loss))
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


def _trace(
    end: int, trail: list[tuple[Int64, Int64]], groups: Sequence[_Group], settled: Mapping[int, int]
) -> tuple[int, ...]:
    """The option of every group, in order, from the last step back to the first."""
    picked = dict(settled)
    for group, (parents, options) in zip(reversed(groups), reversed(trail), strict=True):
        picked[group.number] = int(options[end])
        end = int(parents[end])
    return tuple(picked[number] for number in sorted(picked))
