# SPDX-License-Identifier: MIT
"""Proofs that float32 engines compute the very integers of the integer model.

Notation: `s = b / 2**c` is a positive float32 number (so its 24 significant bits are exact), `fl(x)` is x rounded to
the nearest float32 number, and per channel, for an integer accumulator within [low, high]:

    F(acc) = clamp(rint(fl(fl(acc) * s)))        what float32 engines compute
    G(acc) = clamp(round_half_even(acc * s))     what the integer model means

**Lemma: F and G do not decrease.** acc <= acc' gives fl(acc) <= fl(acc'), because rounding to nearest never swaps two
numbers; multiplying by s > 0 keeps the order; so do the second fl, rint, and the clamp. The same for G, without the fl.

**Theorem B: two accumulators per threshold decide.** For v in quant_min + 1 .. quant_max let T(v) be the smallest
integer, of any size, at which G reaches v. Then F = G on all of [low, high] if and only if, for each v,

    (1) F(max(T(v), low)) >= v        whenever T(v) <= high, and
    (2) F(min(T(v) - 1, high)) < v    whenever T(v) - 1 >= low.

Proof. Take any acc in [low, high], and v = G(acc). If v > quant_min, then T(v) <= acc, so acc >= max(T(v), low), and by
the lemma and (1), F(acc) >= v. If v < quant_max, then G(acc) < v + 1, so acc <= T(v + 1) - 1, hence acc <=
min(T(v + 1) - 1, high), and by the lemma and (2), F(acc) < v + 1. At the ends of the range the clamp gives the missing
side. Together F(acc) = v. Conversely, G satisfies (1) and (2) by the definition of T, so F must where it equals G.

T(v) in integers: acc reaches v when acc * b / 2**c lies above the half v - 1/2, or on it with v even (halves go to
even). Times 2 * 2**c: 2 * b * acc >= (2v - 1) * 2**c, or > for odd v. With N = (2v - 1) * 2**c and D = 2b that is
ceil(N / D) = floor((N + D - 1) / D) for even v, and floor(N / D) + 1 = floor((N + D) / D) for odd v.

The proof needs neither |acc| <= 2**24 nor half-integers that are float32 numbers: fl(acc) is part of F. But above 2**24
every second pair T(v) - 1, T(v) rounds to one float32 number, between which F cannot step. So in practice the last
threshold must lie below: `(quant_max - 1/2) / s <= 2**24`, or s >= 2**-16 for 8-bit outputs; all larger accumulators
are then saturated in both formulas. Otherwise the bounds of the accumulator must end before 2**24.

**Theorem A: short multipliers need no search.** If `B = max(|quant_min|, |quant_max|)` and `B * 2**c <= 2**24`, then
F = G for every int32 accumulator, ties included. Proof. If |acc * s| <= B, then |acc| <= |acc * b| = |acc * s| * 2**c
<= 2**24, so acc and the integer acc * b are float32 numbers, and so is acc * b / 2**c, whose exponent is far from the
limits. No fl rounds, and F = G. If acc * s > B >= quant_max, then G = quant_max. Either acc <= 2**24, so that
fl(acc) * s = acc * s > B; or acc > 2**24, so that fl(acc) * s >= 2**24 * b / 2**c >= B. The last fl keeps it at B or
above, because B is a float32 number: F = quant_max. Likewise below -B. Factors of two common to b and 2**c may be
removed first.

**Theorem C: sums that float32 cannot hold, where they are clamped anyway.** Engines that add products in int32 convert
their sum p to float32 and add the bias d there. Behind a clamp to +-2**24 they compute

    H(p) = clamp(rint(fl(x * s))),   x = min(max(fl(fl(p) + d), -2**24), 2**24).

Let |d| <= 2**24, F = G at all accumulators within +-2**24 that can occur, and

    (3) s * (2**24 + min(d, 0)) >= max(quant_max, 0), and
    (4) s * (2**24 - max(d, 0)) >= max(-quant_min, 0).

Then H(p) = G(p + d) for every int32 p. Proof. If |p| and |p + d| are at most 2**24, no fl before the product rounds, the
clamp does nothing, and H(p) = F(p + d) = G(p + d). Else suppose p > 2**24 or p + d > 2**24, and let t = 2**24 + min(d, 0),
a whole number from 0 to 2**24, so a float32 number. If p > 2**24, then fl(p) >= 2**24, and fl(p) + d >= t; else fl(p) = p,
and fl(p) + d > 2**24 >= t. In both cases x >= t, because fl keeps a number at t or above. By (3), x * s >= t * s >=
quant_max, which is a float32 number, so that fl keeps it there, and H(p) = quant_max. In both cases p + d >= t as well, so
that G(p + d) = quant_max. Below, the same follows from (4). Both cannot be at once: p > 2**24 gives p + d > 0.

**How often a candidate fails.** Next to a half h, fl is off by up to e = 2**(floor(log2 h) - 24), against a spacing of
s between the products: one threshold fails with a probability near e / s, all 255 of an unsigned 8-bit output about
1.3e-3 / s times. Measured over random ratios: about 1.5 candidates at s = 3e-3, 14 at 5e-4, 150 at 5e-5; within a
relative change of 2**-12 all of 20,000 ratios above 2**-15 were proved, and 99.9 % of those from 2**-16 to 2**-15 (for
signed outputs one power of two further). 16-bit outputs have 65,535 thresholds with larger e; a proof then needs small
accumulators or theorem A. For ratios without a proof, `provable_ratio` gives the next one of theorem A; the weights of
the channel then take a scale as much larger.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitwright.integer.multipliers import FLOAT32_EXACT, IntArray, Multipliers, float32_exact

BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float64]
Int64Array = npt.NDArray[np.int64]

_FIRST_THRESHOLDS = 32  # the outermost ones, where most candidates fail
_CHUNK = 2**16  # elements per array operation: they stay in the processor's cache


def formulas_agree(
    b: Int64Array, c: IntArray, low: Int64Array, high: Int64Array, quant_min: int, quant_max: int
) -> BoolArray:
    """Theorem A, else B's two conditions, vectorised over rows of b, c, low, high and over thresholds."""
    agree = float32_exact(b, c)
    scale = np.ldexp(b.astype(np.float64), -c).astype(np.float32)
    b, c = reduced(b, c)
    unproved = agree & (c > max_short_shift(quant_min, quant_max))
    power = np.ldexp(1.0, c)
    # The first threshold out of reach says F(high) < v, and thus says it for all further ones: skip those.
    reach = np.maximum(np.abs(low), np.abs(high)) * scale.astype(np.float64) + 2
    level = np.arange(quant_min + 1, quant_max + 1)
    level = level[np.argsort(-np.abs(2 * level - 1), kind="stable")]
    start, size = 0, _FIRST_THRESHOLDS
    while start < level.size:
        block = level[start : start + size]
        relevant = np.flatnonzero(agree & unproved & (np.abs(block).min() <= reach))
        step = max(1, _CHUNK // block.size)
        for first in range(0, relevant.size, step):
            rows = relevant[first : first + step]
            agree[rows] = _thresholds_agree(
                block, scale[rows, None], b[rows, None], power[rows, None], low[rows, None], high[rows, None]
            )
        start, size = start + size, min(2 * size, _CHUNK)
    return agree


def _thresholds_agree(
    level: Int64Array,
    scale: npt.NDArray[np.float32],
    b: Int64Array,
    power: FloatArray,
    low: Int64Array,
    high: Int64Array,
) -> BoolArray:
    """Conditions (1) and (2) at every v of `level` [levels], for rows [rows, 1] of the rest: bool [rows]."""
    # N = (at most 17 bits) * 2**c is exact in float64. Cut at 2**57 it still puts T(v) beyond int32: b / 2**c is
    # reduced, so b is odd, hence below 2**24 and D below 2**25; or else c = 0, and N is small.
    numerator = np.clip((2 * level - 1) * power, -(2.0**57), 2.0**57).astype(np.int64)
    divisor = 2 * b
    first = numerator
    first += divisor
    first -= level % 2 == 0
    first //= divisor  # T(v)
    reached = np.rint(np.clip(first, low, high).astype(np.float32) * scale) >= level.astype(np.float32)
    reached |= first > high
    first -= 1
    not_yet = np.rint(np.clip(first, low, high).astype(np.float32) * scale) < level.astype(np.float32)
    not_yet |= first < low
    reached &= not_yet
    return np.asarray(reached.all(axis=1))


def thresholds_beyond_float32(
    ratio: FloatArray, low: Int64Array, high: Int64Array, quant_min: int, quant_max: int
) -> Int64Array:
    """How many thresholds lie within the bounds and beyond 2**24: each is missed by every other multiplier."""
    count = np.zeros(ratio.shape, np.int64)
    for bound, last in ((high, quant_max), (-low, -quant_min)):
        inside, exact = (np.floor(np.minimum(limit * ratio, last - 0.5) + 0.5) for limit in (bound, FLOAT32_EXACT))
        count += np.maximum(inside - exact, 0).astype(np.int64)
    return count


def clamped_beyond_float32(
    multipliers: Multipliers, bias: npt.NDArray[np.int32], quant_min: int, quant_max: int
) -> BoolArray:
    """Where theorem C holds for ratios that are certified up to 2**24: bool [channels].

    Args:
        multipliers: Integers of at most 24 significant bits, one per channel or one for all.
        bias: Shape [channels].
        quant_min: Smallest result.
        quant_max: Largest result.

    >>> pair = Multipliers(np.array([1, 1]), np.array([15, 17]))
    >>> clamped_beyond_float32(pair, np.array([-1000, 0], dtype=np.int32), 0, 255)
    array([ True, False])
    """
    # 24 bits times at most 25 bits: exact in float64.
    scale, offset = multipliers.real(), bias.astype(np.int64)
    above = scale * (FLOAT32_EXACT + np.minimum(offset, 0)) >= max(quant_max, 0)
    below = scale * (FLOAT32_EXACT - np.maximum(offset, 0)) >= max(-quant_min, 0)
    return np.asarray(above & below & (np.abs(offset) <= FLOAT32_EXACT))


def reduced(b: Int64Array, c: IntArray) -> tuple[Int64Array, Int64Array]:
    """Remove the factors of two common to b and 2**c."""
    lowest = b & -b  # the largest power of two that divides b
    common = np.minimum(np.frexp(lowest.astype(np.float64))[1] - 1, c).astype(np.int64)
    return b >> common, c - common


def max_short_shift(quant_min: int, quant_max: int) -> int:
    """The largest c with max(|quant_min|, |quant_max|) * 2**c <= 2**24."""
    return (FLOAT32_EXACT // max(abs(quant_min), abs(quant_max))).bit_length() - 1
