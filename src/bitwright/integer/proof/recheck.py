# SPDX-License-Identifier: MIT
"""What lowering established, established again: no integer model is loaded, run fast or exported on somebody's word.

A model is proved by its integers, its formats, and what its `facts` claim of them. Checked are, in order,

1. its *form* (`shapes`): every operation reads what was made before it, in shapes that it can read;
2. its *ranges*: what an operation makes lies within the format that its readers count on, whatever the image; every accumulator
   lies within int32, and every sum of tensors within float32, or where these have 32 bits within int64;
3. its *certificates*: where a fact says that multipliers were proved, theorem A or B holds for every accumulator of every channel
   (so that float32 engines compute the integers of the model). The published models' multipliers of 31 bits have no such
   certificate: they mean int64 arithmetic, which needs the bounds of (2) alone, and exporters either find a float32 multiplier
   with the same results (`float32_multipliers`), compute them in wider arithmetic, or refuse;
4. its other *facts*: the largest accumulator, whether float32 holds every sum, whether 16 bits hold every pair of products; and
   where a ratio of two scales decides a multiplier, that it is this multiplier.

Between two layers a scale decides nothing: it says what one integer is worth, and the weights' scales are not in the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import Any

import numpy as np

from bitwright.errors import FileFormatError, LoweringError, shown
from bitwright.graph.nodes import Node
from bitwright.integer.model import IntegerModel
from bitwright.integer.multipliers import INT32_MAX, INT32_MIN, MAX_SHIFT
from bitwright.integer.ops import Accumulate, IntegerRequantize, Rescale
from bitwright.integer.outputs import Output
from bitwright.integer.proof.certificate import MAX_RELATIVE_CHANGE, float32_agrees
from bitwright.integer.proof.ranges import Range, accumulators, result_range
from bitwright.integer.quant_params import QuantParams
from bitwright.integer.shapes import check_shapes

PROOFS = ("theorem_a", "theorem_b", "exhaustive")
"""The facts that count an operation's proved channels."""


def recheck(model: IntegerModel) -> None:
    """Prove `model` again.

    Raises:
        LoweringError: If an operation, which it names, is not what the model says.
    """
    try:
        check_shapes(model.ops, model.formats, model.outputs, "the model")
    except FileFormatError as error:
        raise LoweringError(str(error)) from error
    ranges: dict[str, Range] = {}
    for op in model:
        sources = [ranges[name] for name in op.inputs]
        check_op(op, sources, model)
        ranges[op.name] = _within_format(op, result_range(op, sources, model), model)
    for name, output in model.outputs.items():
        _check_output(name, output, model)


def format_of(name: str, reader: Node, model: IntegerModel) -> QuantParams:
    """The format of a tensor that is read by an operation that computes."""
    if name not in model.formats:
        raise LoweringError(f"'{reader.name}': expected an input with a format, got the accumulators '{name}'.")
    return model.formats[name]


def _within_format(op: Node, found: Range, model: IntegerModel) -> Range:
    """The range of what an operation makes, if it is one that its readers may count on."""
    params = model.formats.get(op.name)
    low, high = (INT32_MIN, INT32_MAX) if params is None else (params.quant_min, params.quant_max)
    if not low <= found[0] <= found[1] <= high:
        raise LoweringError(
            f"'{op.name}': its integers can reach {found[0]} to {found[1]}, beyond its format of [{low}, {high}]."
        )
    return found


def _check_output(name: str, output: Output, model: IntegerModel) -> None:
    unit = np.asarray(output.unit)
    if not (np.isfinite(unit).all() and (unit > 0).all()):
        raise LoweringError(f"output '{name}': expected positive, finite units.")
    params = model.formats.get(output.tensor)
    if params is not None and (unit != params.scale).any():
        raise LoweringError(f"output '{name}': expected its unit to be its scale {params.scale}, got {unit.flat[0]}.")


@singledispatch
def check_op(op: Node, sources: list[Range], model: IntegerModel) -> None:
    """Refuse an operation that is not what its facts and formats say.

    Args:
        op: The operation.
        sources: The ranges of what it reads.
        model: What it is a part of.

    Raises:
        LoweringError: Says which, and what was expected.
    """
    raise NotImplementedError(f"no proof of {type(op).__name__}")


def facts_of(op: Node, model: IntegerModel) -> Mapping[str, Any]:
    """What lowering wrote down about an operation; nothing for what it did not look at."""
    facts: Mapping[str, Any] = model.facts.get(op.name, {})
    return facts


def certified(op: Node, model: IntegerModel) -> bool:
    """Whether the facts of an operation claim a certificate for its multipliers: in a model that was proved, they have it."""
    facts = facts_of(op, model)
    return any(_count(op, facts, proof, 0) for proof in PROOFS)


def _count(op: Node, facts: Mapping[str, Any], name: str, otherwise: int) -> int:
    """A number among the facts, which a file may have changed to anything."""
    found = facts.get(name, otherwise)
    if type(found) is not int:
        raise LoweringError(f"'{op.name}': expected a whole number for '{name}' among its facts, got {shown(found)}.")
    return found


def check_sums(op: Accumulate | IntegerRequantize, sources: list[Range], model: IntegerModel) -> int:
    """Check accumulators and their multipliers; returns the largest magnitude of an accumulator."""
    low, high = accumulators(op, sources, model)
    largest = int(max(high.max(), -low.min()))
    if high.max() > INT32_MAX or low.min() < INT32_MIN:
        raise LoweringError(
            f"layer '{op.name}': an accumulator can reach {largest}, beyond int32. Lower its weight or activation bits."
        )
    facts, rescale = facts_of(op, model), op.rescale
    claimed = _count(op, facts, "largest_accumulator", largest)
    if largest > claimed:
        raise LoweringError(
            f"layer '{op.name}': its facts say that no accumulator exceeds {claimed}, but one can reach {largest}."
        )
    if rescale is None:
        if op.name in model.formats:
            raise LoweringError(f"layer '{op.name}': expected no format of accumulators that are not rescaled.")
        return largest
    output = format_of(op.name, op, model)
    channels = len(low)
    if len(rescale.multipliers) not in (1, channels):
        raise LoweringError(f"layer '{op.name}': expected {channels} multipliers, got {len(rescale.multipliers)}.")
    if not output.quant_min <= rescale.low <= rescale.high <= output.quant_max:
        raise LoweringError(
            f"layer '{op.name}': expected a clamp within [{output.quant_min}, {output.quant_max}], "
            f"got [{rescale.low}, {rescale.high}]."
        )
    proofs = sum(_count(op, facts, proof, 0) for proof in PROOFS)
    if proofs and proofs != len(rescale.multipliers):
        raise LoweringError(f"layer '{op.name}': {len(rescale.multipliers)} multipliers, but {proofs} proofs.")
    if proofs:
        _check_certificate(op, rescale, low, high)
    return largest


def _check_certificate(op: Node, rescale: Rescale, low: Any, high: Any) -> None:
    """Theorem A or B, for every channel."""
    if len(rescale.multipliers) == 1:
        low, high = low.min(keepdims=True), high.max(keepdims=True)
    agree = float32_agrees(rescale.multipliers, low, high, rescale.low, rescale.high)
    if not agree.all():
        channel = int(np.argmin(agree))
        b, c = rescale.multipliers.multiplier[channel], rescale.multipliers.shift[channel]
        raise LoweringError(
            f"layer '{op.name}', channel {channel}: its multiplier {b} / 2**{c} is not proved: float32 engines would compute "
            f"other integers for some accumulator in [{low[channel]}, {high[channel]}]. Lower the model again."
        )


def check_ratio(op: Node, rescale: Rescale, unit: float, model: IntegerModel) -> None:
    """Where one multiplier stands for the ratio of two scales: that it is near enough to it."""
    if op.name not in model.facts:
        return
    wanted, found = unit / model.formats[op.name].scale, float(rescale.multipliers.real()[0])
    if abs(found - wanted) > max(MAX_RELATIVE_CHANGE * wanted, 2.0**-MAX_SHIFT):
        raise LoweringError(
            f"'{op.name}': expected a multiplier near {wanted:.6g}, the ratio of its scales, got {found:.6g}."
        )
