# SPDX-License-Identifier: MIT
"""Multipliers of 31 bits replaced by float32 ones that give the same integers, wherever there are such.

The published models requantize by 31-bit multipliers, which no float32 engine has. But what is asked of a multiplier is a
staircase: the accumulators at which the result goes up. With few steps, and these far below 2**24, a float32 number has the same
staircase, and the layer may run as fast as any other. Nothing of the model's meaning changes.

As in theorem B of `theorems`, two accumulators around each step of the 31-bit formula decide: what float32 engines compute with
the candidate, and what the integer formula says of it, do not decrease either, so each equals the 31-bit formula on all of
[low, high] if and only if it does there. Both are asked for: the model that results is an integer model like any other.

A multiplier of 31 bits is itself a float32 number where its last seven bits are zero, which happens. That proves nothing: it is
replaced like any other, unless it is proved.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from bitwright.errors import LoweringError
from bitwright.graph.nodes import Node
from bitwright.integer.model import IntegerModel
from bitwright.integer.multipliers import (
    FLOAT32_EXACT,
    INT32_MAX,
    INT32_MIN,
    IntArray,
    Multipliers,
    float32_exact,
    requantize,
    requantize_float32,
)
from bitwright.integer.ops import Rescale
from bitwright.integer.proof.certificate import float32_agrees, search_multipliers
from bitwright.integer.proof.ranges import Range, accumulators, tensor_ranges
from bitwright.integer.proof.recheck import PROOFS
from bitwright.integer.proof.theorems import BoolArray, Int64Array
from bitwright.quantizer.formats import UNCLAMPED_BITS

MAX_STEPS = 2**8
"""Results of more than 8 bits have too many steps for a float32 number to meet them all."""
_CANDIDATES = 256


def with_float32_multipliers(model: IntegerModel, ranges: dict[str, Range] | None = None) -> IntegerModel:
    """`model` with every multiplier that has an equal float32 one replaced by it: the same integers everywhere.

    An operation is changed as a whole: one channel without a float32 multiplier keeps all of them as they are.

    Args:
        model: Proved (`recheck`), of any multipliers; certified ones stay.
        ranges: What `tensor_ranges` found, if at hand.

    Raises:
        LoweringError: If multipliers are float32 numbers, but float32 would give other integers with them, and with all others.
    """
    if all(op.rescale is None or certified(op, model) for op in model if hasattr(op, "rescale")):
        return model
    known = tensor_ranges(model) if ranges is None else ranges
    return replace(model, ops=tuple(_narrowed(op, model, known) for op in model))


def _narrowed(op: Node, model: IntegerModel, ranges: dict[str, Range]) -> Node:
    rescale: Rescale | None = getattr(op, "rescale", None)
    if rescale is None or certified(op, model) or model.formats[op.name].bit_width == UNCLAMPED_BITS:
        return op
    low, high = accumulators(op, [ranges[name] for name in op.inputs], model)
    numbers = in_float32(rescale)
    if numbers and bool(float32_agrees(rescale.multipliers, low.min(), high.max(), rescale.low, rescale.high).all()):
        return op
    found = None
    if rescale.high - rescale.low < MAX_STEPS and rescale.multipliers.real().max() < FLOAT32_EXACT:
        found = float32_multipliers(rescale, low, high)
    if found is None and numbers:
        raise LoweringError(
            f"'{op.name}': its multipliers are float32 numbers, but neither with these nor with others next to them does float32 "
            "give its integers. Use the engine tvm."
        )
    if found is None:
        return op
    changes: dict[str, Any] = {"rescale": replace(rescale, multipliers=found)}
    return replace(op, **changes)


def certified(op: Node, model: IntegerModel) -> bool:
    """Whether the facts say that float32 gives the integers of an operation; `recheck` proves what they say."""
    facts = model.facts.get(op.name, {})
    return any(facts.get(proof) for proof in PROOFS)


def in_float32(rescale: Rescale) -> bool:
    """Whether all ratios are float32 numbers."""
    return bool(float32_exact(rescale.multipliers.multiplier, rescale.multipliers.shift).all())


def float32_multipliers(rescale: Rescale, low: Int64Array, high: Int64Array) -> Multipliers | None:
    """Ratios that are float32 numbers, with which engines compute what `rescale` says, or None where a channel has none.

    Args:
        rescale: Multipliers of any kind, and the limits of the results.
        low: Smallest accumulators, [channels] or [1].
        high: Largest ones, likewise.
    """
    size = len(rescale.multipliers)
    first, last = (np.broadcast_to(end, size).clip(INT32_MIN, INT32_MAX) for end in (low, high))
    level = np.arange(rescale.low + 1, rescale.high + 1)
    steps = _steps(rescale.multipliers, level)

    def agrees(b: Int64Array, c: IntArray, rows: IntArray) -> BoolArray:
        agree = float32_exact(b, c)
        start, end, reached = first[rows, None], last[rows, None], steps[rows]
        for formula in (requantize_float32, requantize):
            left = np.flatnonzero(agree)
            if not left.size:
                break
            pair, limits = Multipliers(b[left], c[left].astype(np.int32)), (rescale.low, rescale.high, 0)
            after, before = (np.clip(reached[left] - moved, start[left], end[left]) for moved in (0, 1))
            above = (formula(after, pair, *limits) >= level) | (reached[left] > end[left])
            below = (formula(before, pair, *limits) < level) | (reached[left] - 1 < start[left])
            agree[left] = (above & below).all(axis=1)
        return agree

    chosen = search_multipliers(rescale.multipliers.real(), agrees, np.ones(size, np.bool_), 2.0**-12, _CANDIDATES)
    return Multipliers(chosen.b, chosen.c.astype(np.int32)) if chosen.tried.all() else None


def _steps(multipliers: Multipliers, level: Int64Array) -> Int64Array:
    """The smallest accumulator at which each result is reached, int64 [channels, levels]; see `theorems` for the formula.

    In Python's integers, since 2 * 2**62 times a level leaves int64; then cut at what no accumulator reaches.
    """
    numerator = (2 * level - 1).astype(object)[None] * (1 << multipliers.shift.astype(object))[:, None]
    divisor = (2 * multipliers.multiplier).astype(object)[:, None]
    reached = (numerator + divisor - (level % 2 == 0)) // divisor
    return np.asarray(np.clip(reached, 2 * INT32_MIN, 2 * INT32_MAX).astype(np.int64))
