# SPDX-License-Identifier: MIT
"""Multipliers with a proof that float32 engines compute the very integers of the integer model: search and check.

The proofs themselves, theorems A and B, are in `theorems`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bitwright.errors import LoweringError
from bitwright.integer.multipliers import (
    INT32_MAX,
    INT32_MIN,
    MAX_SHIFT,
    IntArray,
    Multipliers,
    dyadic,
    float32_exact,
    requantize,
    requantize_float32,
)
from bitwright.integer.proof.theorems import (
    BoolArray,
    FloatArray,
    Int64Array,
    formulas_agree,
    max_short_shift,
    reduced,
    thresholds_beyond_float32,
)

Predicate = Callable[[Int64Array, IntArray, IntArray], BoolArray]
"""From b, c and channel of each row to verdicts."""

MAX_RELATIVE_CHANGE = 2.0**-12  # moves an 8-bit output by at most 1/16 of a step
EXHAUSTIVE = 2**16
"""Tensors of at most so many different values are proved by trying them all, larger ones by theorem."""

_BITS = 24
_EVERY_INT32_CANDIDATES = 256
_MOST_CANDIDATES = 2**14  # more than there are within the default change
_LEAST_CANDIDATES = 8  # the ratios of theorem A are found among these
_THRESHOLDS_BEYOND = 16  # each halves the chance of a candidate: more are not worth a search


@dataclass(frozen=True, eq=False)
class Certified:
    """Multipliers with their proofs, one entry per channel.

    Attributes:
        multipliers: The chosen ones.
        theorem: 'A', 'B' or 'exhaustive'; '' where nothing was proved (only with `strict=False`).
        candidates: int64 [channels], the place of the chosen one among those tried, from 1.
        relative_change: float64 [channels], `chosen / wanted - 1`.
        every_int32: bool [channels], whether the proof holds for every int32 accumulator, beyond the layer's bounds.
    """

    multipliers: Multipliers
    theorem: tuple[str, ...]
    candidates: Int64Array
    relative_change: FloatArray
    every_int32: BoolArray

    @property
    def proved(self) -> BoolArray:
        """Where a proof was found, bool [channels]: everywhere, unless `strict=False` was asked for."""
        return np.array([bool(theorem) for theorem in self.theorem])

    def replaced(self, channels: IntArray, other: Certified) -> Certified:
        """With the certificates of `other` for some channels, in their order."""

        def merged(mine: npt.NDArray[Any], theirs: npt.NDArray[Any]) -> npt.NDArray[Any]:
            result = mine.copy()
            result[channels] = theirs
            return result

        return Certified(
            Multipliers(
                merged(self.multipliers.multiplier, other.multipliers.multiplier),
                merged(self.multipliers.shift, other.multipliers.shift),
            ),
            tuple(merged(np.array(self.theorem, dtype=object), np.array(other.theorem, dtype=object)).tolist()),
            merged(self.candidates, other.candidates),
            merged(self.relative_change, other.relative_change),
            merged(self.every_int32, other.every_int32),
        )


def certify(
    ratio: npt.ArrayLike,
    accumulator_min: npt.ArrayLike,
    accumulator_max: npt.ArrayLike,
    quant_min: int,
    quant_max: int,
    *,
    max_relative_change: float = MAX_RELATIVE_CHANGE,
    strict: bool = True,
) -> Certified:
    """Choose the multiplier nearest to each ratio that is proved equal on float32 engines.

    The candidates are the float32 numbers around the ratio in the order 0, +1, -1, +2, -2, ... (in units of b's last
    bit). The first that holds for every int32 accumulator is taken; where 256 candidates fail, or the last threshold
    lies above 2**24 (so that they would), the first that holds for every accumulator within the bounds. Outputs of more
    than 8 bits get far fewer candidates.

    Args:
        ratio: `scale_in * scale_weight / scale_out`, [channels] or a single number, positive, below 2**24.
        accumulator_min: int [channels] or a single one, the least accumulator that weights, inputs and bias allow.
        accumulator_max: The greatest, likewise.
        quant_min: Smallest output.
        quant_max: Largest output.
        max_relative_change: How far from the ratio the search may go.
        strict: Whether to raise where nothing was proved, or to return the nearest multiplier with an empty theorem.

    Raises:
        LoweringError: If bounds leave int32, or a channel has no proved multiplier; names the first such channel.

    Source:
        Theorems A and B of `bitwright.integer.proof.theorems`.

    >>> certified = certify([0.0123, 0.25], -100_000, 100_000, -128, 127)
    >>> certified.theorem, certified.candidates
    (('B', 'A'), array([1, 1]))
    """
    wanted = _checked_ratios(ratio, quant_min, quant_max)
    low, high = _checked_bounds(accumulator_min, accumulator_max, wanted.size)
    all_low, all_high = np.full_like(low, INT32_MIN), np.full_like(high, INT32_MAX)

    def agrees_on_every_int32(b: Int64Array, c: IntArray, rows: IntArray) -> BoolArray:
        return formulas_agree(b, c, all_low[rows], all_high[rows], quant_min, quant_max)

    def agrees_within_bounds(b: Int64Array, c: IntArray, rows: IntArray) -> BoolArray:
        return formulas_agree(b, c, low[rows], high[rows], quant_min, quant_max)

    # A candidate costs a look at every threshold, and passes the less often the more there are: with 16-bit outputs hardly ever.
    rarity = -(-(quant_max - quant_min) // 2**8)
    hopeful = thresholds_beyond_float32(wanted, all_low, all_high, quant_min, quant_max) == 0
    limit = max(_LEAST_CANDIDATES, _EVERY_INT32_CANDIDATES // rarity)
    chosen = search_multipliers(wanted, agrees_on_every_int32, hopeful, max_relative_change, limit)
    missing = chosen.tried == 0
    every_int32 = ~missing
    if missing.any():
        beyond = thresholds_beyond_float32(wanted, low, high, quant_min, quant_max)
        hopeful = missing & (beyond <= _THRESHOLDS_BEYOND)
        limit = max(_LEAST_CANDIDATES, _MOST_CANDIDATES // rarity)
        bounded = search_multipliers(wanted, agrees_within_bounds, hopeful, max_relative_change, limit)
        chosen = Choice(*(np.where(missing, new, old) for new, old in zip(bounded, chosen, strict=True)))
        every_int32[missing] = agrees_on_every_int32(chosen.b[missing], chosen.c[missing], np.flatnonzero(missing))
    proved = chosen.tried > 0
    if strict and not proved.all():
        channel = int(np.argmin(proved))
        others = int((~proved).sum()) - 1
        raise _no_proof(
            channel,
            float(wanted[channel]),
            max_relative_change,
            f"outputs in [{quant_min}, {quant_max}] and accumulators in [{low[channel]}, {high[channel]}]",
            f"found none (nor for {others} more channels)" if others else "found none",
            float(provable_ratio(wanted[channel], quant_min, quant_max)[0]),
        )
    short = reduced(chosen.b, chosen.c)[1] <= max_short_shift(quant_min, quant_max)
    theorem = tuple("" if not ok else "A" if a else "B" for ok, a in zip(proved, short, strict=True))
    return _certified(wanted, chosen, theorem, every_int32)


def float32_agrees(
    multipliers: Multipliers,
    accumulator_min: npt.ArrayLike,
    accumulator_max: npt.ArrayLike,
    quant_min: int,
    quant_max: int,
) -> BoolArray:
    """Prove or refute given multipliers, for instance those of a file, by theorem B, which is exact both ways.

    Args:
        multipliers: [channels], of any kind; ratios that are no float32 numbers fail.
        accumulator_min: int [channels] or a single one; with the int32 limits, the proof covers every accumulator.
        accumulator_max: Likewise.
        quant_min: Smallest output.
        quant_max: Largest output.

    Returns:
        bool [channels]: whether `requantize` and `requantize_float32` agree on every accumulator within the bounds.

    Raises:
        LoweringError: If bounds leave int32.

    >>> float32_agrees(dyadic([0.25, 1e-3]), INT32_MIN, INT32_MAX, 0, 255)
    array([ True, False])
    """
    _check_range(quant_min, quant_max)
    low, high = _checked_bounds(accumulator_min, accumulator_max, len(multipliers))
    return formulas_agree(multipliers.multiplier, multipliers.shift, low, high, quant_min, quant_max)


def provable_ratio(ratio: npt.ArrayLike, quant_min: int, quant_max: int) -> FloatArray:
    """The smallest ratio of theorem A at or above each given one: `certify` takes it as it is, whatever the bounds.

    Args:
        ratio: [channels] or a single number, positive.
        quant_min: Smallest output.
        quant_max: Largest output.

    Returns:
        float64 [channels]: multiples of `2**-c`, with c the theorem's largest shift (16 for unsigned 8-bit outputs, 9
        for signed 16-bit ones).

    >>> provable_ratio([1e-6, 1e-4], 0, 255) * 2**16
    array([1., 7.])
    """
    wanted = _checked_ratios(ratio, quant_min, quant_max)
    # A large ratio keeps 24 bits: rounded up, it is a float32 number still.
    shift = np.minimum(max_short_shift(quant_min, quant_max), _BITS - np.frexp(wanted)[1])
    return np.asarray(np.ldexp(np.ceil(np.ldexp(wanted, shift)), -shift))


def certify_requantize(
    ratio: npt.ArrayLike,
    in_min: int,
    in_max: int,
    quant_min: int,
    quant_max: int,
    *,
    max_relative_change: float = MAX_RELATIVE_CHANGE,
) -> Certified:
    """As `certify`, for a tensor that is only rescaled: every input is tried where there are at most `EXHAUSTIVE`.

    Args:
        ratio: `scale_in / scale_out`, [channels] or a single number.
        in_min: Smallest input.
        in_max: Largest input.
        quant_min: Smallest output.
        quant_max: Largest output.
        max_relative_change: How far from the ratio the search may go.

    Raises:
        LoweringError: If the inputs leave int32, or nothing was proved.

    >>> certify_requantize(0.7, -128, 127, -8, 7).theorem
    ('exhaustive',)
    """
    _checked_bounds(in_min, in_max, 1)
    if in_max - in_min >= EXHAUSTIVE:
        return certify(ratio, in_min, in_max, quant_min, quant_max, max_relative_change=max_relative_change)
    inputs = np.arange(in_min, in_max + 1, dtype=np.int64)

    def predicate(b: Int64Array, c: IntArray, rows: IntArray) -> BoolArray:
        agree = float32_exact(b, c)
        for row in np.flatnonzero(agree):
            pair = Multipliers(b[row : row + 1], c[row : row + 1].astype(np.int32))
            exact = requantize(inputs, pair, quant_min, quant_max)
            agree[row] = np.array_equal(exact, requantize_float32(inputs, pair, quant_min, quant_max))
        return agree

    wanted = _checked_ratios(ratio, quant_min, quant_max)
    chosen = search_multipliers(
        wanted, predicate, np.ones(wanted.shape, np.bool_), max_relative_change, _MOST_CANDIDATES
    )
    if (chosen.tried == 0).any():
        channel = int(np.argmin(chosen.tried))
        raise _no_proof(
            channel,
            float(wanted[channel]),
            max_relative_change,
            f"outputs in [{quant_min}, {quant_max}] and inputs in [{in_min}, {in_max}]",
            "found none",
            float(provable_ratio(wanted[channel], quant_min, quant_max)[0]),
        )
    limits = _checked_bounds(INT32_MIN, INT32_MAX, wanted.size)
    every_int32 = formulas_agree(chosen.b, chosen.c, *limits, quant_min, quant_max)
    return _certified(wanted, chosen, ("exhaustive",) * wanted.size, every_int32)


class Choice(NamedTuple):
    """A search's result [channels]: b / 2**c, and how many candidates it took, or 0 where none passed."""

    b: Int64Array
    c: Int64Array
    tried: Int64Array


def search_multipliers(
    wanted: FloatArray, agrees: Predicate, channels: BoolArray, max_relative_change: float, limit: int
) -> Choice:
    """The first candidate of each channel that agrees, in blocks of 1, 2, 4, ... for the channels still without.

    Args:
        wanted: Ratios [channels], below 2**24.
        agrees: From b, c and channel of each row to a verdict; see `certify` for the order of the candidates.
        channels: Where to search at all.
        max_relative_change: How far from the ratio to go.
        limit: Most candidates of a channel.
    """
    nearest = dyadic(wanted, _BITS)
    b, c = nearest.multiplier.copy(), nearest.shift.astype(np.int64)
    tried = np.zeros(wanted.shape, np.int64)
    pending, start, block = np.flatnonzero(channels), 0, 1
    while pending.size and start < limit:
        order = np.arange(start, min(start + block, limit))
        offset = np.where(order % 2 == 1, (order + 1) // 2, -(order // 2))  # 0, +1, -1, +2, -2, ...
        shape = (pending.size, order.size)
        new_b, new_c = _neighbour(nearest.multiplier[pending, None], nearest.shift[pending, None], offset)
        change = np.abs(np.ldexp(new_b.astype(np.float64), -new_c) / wanted[pending, None] - 1)
        allowed = (change <= max_relative_change) | (offset == 0)
        rows = np.broadcast_to(pending[:, None], shape)[allowed]
        passed = np.zeros(shape, np.bool_)
        passed[allowed] = agrees(new_b[allowed], new_c[allowed], rows)
        first, found = passed.argmax(axis=1), passed.any(axis=1)
        hit = pending[found]
        b[hit], c[hit] = new_b[found, first[found]], new_c[found, first[found]]
        tried[hit] = order[first[found]] + 1
        pending = pending[~found & allowed.any(axis=1)]
        start, block = start + order.size, min(2 * block, 64)
    return Choice(b, c, tried)


def _neighbour(b: Int64Array, c: IntArray, offset: Int64Array) -> tuple[Int64Array, Int64Array]:
    """The float32 number `offset` places after b / 2**c: beyond a power of two, steps are twice as wide."""
    moved, shift = np.broadcast_arrays(b + offset, c.astype(np.int64))
    above = moved - 2**_BITS
    below = 2 ** (_BITS - 1) - moved
    up = (above >= 0) & (shift > 0)
    down = (below > 0) & (shift < MAX_SHIFT)
    result = np.where(up, 2 ** (_BITS - 1) + above, np.where(down, 2**_BITS - below, moved))
    # At the limits of the shift, stay on the last number: tried again, it fails again.
    return np.clip(result, 1, 2**_BITS - 1), shift - up + down


def _certified(wanted: FloatArray, chosen: Choice, theorem: tuple[str, ...], every_int32: BoolArray) -> Certified:
    """Put a finished search into words."""
    multipliers = Multipliers(chosen.b, chosen.c.astype(np.int32))
    return Certified(multipliers, theorem, np.maximum(chosen.tried, 1), multipliers.real() / wanted - 1, every_int32)


def _no_proof(channel: int, ratio: float, change: float, where: str, got: str, better: float) -> LoweringError:
    """The error of a search without result, with the ratio that theorem A would allow."""
    return LoweringError(
        f"channel {channel}: expected a multiplier within {change:.2g} of the ratio {ratio:.6g} that float32 engines "
        f"compute exactly for {where}, {got}. Take the ratio {better:.6g} instead, by a scale of the weights "
        f"{better / ratio:.4g} times as large."
    )


def _check_range(quant_min: int, quant_max: int) -> None:
    """Refuse output ranges of more than 16 bits, and empty ones."""
    if not quant_min < quant_max < quant_min + 2**16 or max(-quant_min, quant_max) >= 2**16:
        raise LoweringError(f"expected an output range of 2 to 16 bits, got [{quant_min}, {quant_max}].")


def _checked_ratios(ratio: npt.ArrayLike, quant_min: int, quant_max: int) -> FloatArray:
    """Ratios as float64 [channels], each of which some multiplier stands for."""
    _check_range(quant_min, quant_max)
    dyadic(ratio, _BITS)  # refuses what is not positive, finite and below 2**24
    return np.atleast_1d(np.asarray(ratio, np.float64))


def _checked_bounds(low: npt.ArrayLike, high: npt.ArrayLike, channels: int) -> tuple[Int64Array, Int64Array]:
    """Accumulator bounds as int64 [channels], within int32."""
    lows, highs = (np.asarray(bound) for bound in (low, high))
    for bound in (lows, highs):
        if not np.issubdtype(bound.dtype, np.integer) or bound.shape not in ((), (1,), (channels,)):
            raise LoweringError(
                f"expected integer accumulator bounds of {channels} channels, got {bound.dtype} of shape {bound.shape}."
            )
    lows, highs = (np.broadcast_to(bound, (channels,)) for bound in (lows, highs))
    good = (lows >= INT32_MIN) & (lows <= highs) & (highs <= INT32_MAX)
    if not good.all():
        channel = int(np.argmin(good))
        raise LoweringError(
            f"channel {channel}: expected accumulator bounds within int32, got [{lows[channel]}, {highs[channel]}]. "
            "Use fewer bits for the weights or the activations of the layer."
        )
    return lows.astype(np.int64), highs.astype(np.int64)
