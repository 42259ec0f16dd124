# SPDX-License-Identifier: MIT
"""Additions in a LiteRT file: on bytes where no sum lies at a half, else in float32, and in int32 beyond 2**24.

XNNPACK's 8-bit addition multiplies each term by `term scale / output scale` as a whole number over a power of two, 20 bits of
which the larger factor has, adds in int32, and shifts right with halves up. The model's factors `m / 2**shift` have at most 15
bits, so they are these numbers exactly, and the sums are those of the model. Only a sum at a half is rounded otherwise than to
the even number: where the two formats have no pair of integers with such a sum, the results are equal. Lowering chooses factors
that have none, where some are near.

The terms need scales of their own for it, whereas all layers write at scale 1: a reshape, which moves the bytes as they are,
renames the scale.
"""

from __future__ import annotations

import numpy as np

from bitwright.errors import ExportError
from bitwright.export.litert.builder import LitertBuilder
from bitwright.export.litert.real import combined, real_of, store_rounded, whole_of
from bitwright.integer.multipliers import INT32_MAX, sums_at_halves
from bitwright.integer.ops import IntegerAdd
from bitwright.integer.proof.bounds import FLOAT32_EXACT
from bitwright.quantizer.sums import weighted_bound
from bitwright.scheme import MAX_BITS

LEAST_FACTOR, MOST_FACTOR = 2.0**-10, 2.0**8
"""XNNPACK takes an addition whose larger factor is at least the one and below the other."""


def add_sum(op: IntegerAdd, builder: LitertBuilder) -> None:
    """The sum of two tensors.

    Raises:
        ExportError: If it can leave int32, or is shifted and can exceed 2**24 before.
    """
    largest = weighted_bound(((0, builder.reach(name)) for name in op.inputs), op.multipliers)
    if _exact_on_bytes(op, builder):
        _add_bytes(op, builder)
    elif largest <= FLOAT32_EXACT:
        _add_reals(op, builder)
    elif largest <= INT32_MAX and not op.shift:
        _add_wholes(op, builder)
    else:
        raise ExportError(
            f"LiteRT adds in int32 without a shift, and up to 2**24 with one, but '{op.name}' can reach {largest} with a "
            f"shift of {op.shift}. Use another engine."
        )


def _exact_on_bytes(op: IntegerAdd, builder: LitertBuilder) -> bool:
    """Whether XNNPACK's 8-bit addition gives the integers of the model."""
    formats = [builder.model.formats[name] for name in (*op.inputs, op.name)]
    if any(params.bit_width > MAX_BITS for params in formats):
        return False
    factor = max(op.multipliers) / 2**op.shift
    first, second = (params.ends for params in formats[:2])
    return LEAST_FACTOR <= factor < MOST_FACTOR and not sums_at_halves(*op.multipliers, op.shift, first, second)


def _add_bytes(op: IntegerAdd, builder: LitertBuilder) -> None:
    sizes = builder.nhwc(op.shape)
    terms = []
    for name, multiplier in zip(op.inputs, op.multipliers, strict=True):
        source = builder.held[name]
        renamed = builder.like(source, sizes, multiplier / 2**op.shift)
        terms.append(builder.reshape(source.tensor, renamed, sizes))

    def add(output: int, activation: int) -> None:
        builder.node("ADD", terms, output, "AddOptions", 2, fusedActivationFunction=activation)

    builder.saturated(op.name, op.shape, op.low, op.high, add)


def _add_reals(op: IntegerAdd, builder: LitertBuilder) -> None:
    """In float32: products and sum stay within 2**24 before the shift, hence exact, and one rounding remains."""

    def make(activation: int) -> int:
        terms = []
        for name, multiplier in zip(op.inputs, op.multipliers, strict=True):
            factor = builder.floats(multiplier / 2**op.shift)
            terms.append(combined(builder, op.shape, "MUL", [real_of(name, builder), factor]))
        return combined(builder, op.shape, "ADD", terms, activation)

    store_rounded(op, builder, op.low, op.high, make)


def _add_wholes(op: IntegerAdd, builder: LitertBuilder) -> None:
    """In int32, as the residuals of the published models are added."""
    terms = []
    for name, multiplier in zip(op.inputs, op.multipliers, strict=True):
        term = whole_of(name, builder)
        if multiplier != 1:
            factor = builder.constant(np.array(multiplier, dtype=np.int32))
            term = combined(builder, op.shape, "MUL", [term, factor], kind="INT32")
        terms.append(term)
    total = combined(builder, op.shape, "ADD", terms, kind="INT32")
    for operator, limit in (("MAXIMUM", op.low), ("MINIMUM", op.high)):
        constant = builder.constant(np.array(limit, dtype=np.int32))
        output = builder.hold(op.name, op.shape, "INT32")
        total = builder.node(operator, [total, constant], output, "MaximumMinimumOptions")
