# SPDX-License-Identifier: MIT
"""What lowering established, established again: no integer model is loaded, run fast or exported on somebody's word.

A model is proved by its integers, its formats, and what its `facts` claim of them. Checked are, in order,

1. its *form* (`shapes`): every operation reads what was made before it, in shapes that it can read;
2. its *ranges*: what an operation makes lies within the format that its readers count on, whatever the image; every accumulator
   lies within int32, and every sum of streams within float32, or where streams have 32 bits within int64;
3. its *certificates*: where a fact says that multipliers were proved, theorem A or B holds for every accumulator of every channel
   (so that float32 engines compute the integers of the model). The published models' multipliers of 31 bits have no such
   certificate: they mean int64 arithmetic, which needs the bounds of (2) alone, and exporters either find a float32 multiplier
   with the same results (`narrow`), compute them in wider arithmetic, or refuse;
4. its other *facts*: the largest accumulator, whether float32 holds every sum, whether 16 bits hold every pair of products; and
   where a ratio of two scales decides a multiplier, that it is this multiplier.

Between two layers a scale decides nothing: it says what one integer is worth, and the weights' scales are not in the model.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from math import isfinite, prod
from typing import Any

import numpy as np

from bitwright.errors import FileFormatError, LoweringError, shown
from bitwright.graph.nodes import Concat, Node, Selection
from bitwright.integer.model import IntegerModel, moved_from
from bitwright.integer.multipliers import INT32_MAX, INT32_MIN, MAX_ADDITION_CHANGE, MAX_SHIFT
from bitwright.integer.ops import (
    Accumulate,
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerFloorAvgPool2d,
    IntegerLinear,
    IntegerRequantize,
    Quantize,
    ReciprocalQuantize,
    Rescale,
)
from bitwright.integer.outputs import Output
from bitwright.integer.proof.bounds import FLOAT32_EXACT, SATURATING_SUM, largest_pair_sum, partial_sum_bound
from bitwright.integer.proof.certificate import MAX_RELATIVE_CHANGE, verify
from bitwright.integer.proof.ranges import Range, accumulators, result_range
from bitwright.integer.quant_params import QuantParams
from bitwright.integer.shapes import check_shapes
from bitwright.quantizer.formats import UNCLAMPED_BITS
from bitwright.quantizer.sums import magnitude, weighted_bound, window_sums

_INT64_SUM = 2**62
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


def _format(name: str, reader: Node, model: IntegerModel) -> QuantParams:
    """Of a tensor that is read by an operation that computes."""
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


@check_op.register
def _(op: Selection | Concat, sources: list[Range], model: IntegerModel) -> None:
    formats = {model.formats.get(name) for name in (op.name, *op.inputs)}
    if len(formats) != 1 or (isinstance(op, Concat) and None in formats):
        raise LoweringError(f"'{op.name}': expected the format of what it moves, got another one.")


@check_op.register(Quantize)
@check_op.register(ReciprocalQuantize)
def _(op: Quantize | ReciprocalQuantize, sources: list[Range], model: IntegerModel) -> None:
    scale = float(np.float32(op.scale)) if abs(op.scale) < float(np.finfo(np.float32).max) else 0.0
    if not (isfinite(scale) and scale >= float(np.finfo(np.float32).tiny)):
        raise LoweringError(f"'{op.name}': expected a positive scale within float32, got {op.scale}.")
    if op.name not in model.formats or model.formats[op.name].scale != op.scale:
        raise LoweringError(f"'{op.name}': expected a format of the scale {op.scale} that images are divided by.")


@check_op.register(IntegerConv2d)
@check_op.register(IntegerLinear)
def _(op: IntegerConv2d | IntegerLinear, sources: list[Range], model: IntegerModel) -> None:
    params = _format(op.inputs[0], op, model)
    channels, half = len(op.weight), 1 << (op.weight_bits - 1)
    if op.weight.dtype != np.int8 or op.bias.dtype != np.int32 or op.bias.shape != (channels,):
        raise LoweringError(
            f"layer '{op.name}': expected int8 weights and one int32 bias for each of {channels} channels, "
            f"got {op.weight.dtype}, and {op.bias.dtype} of shape {op.bias.shape}."
        )
    if op.weight.size and not -half <= op.weight.min() <= op.weight.max() < half:
        raise LoweringError(
            f"layer '{op.name}': expected weights of {op.weight_bits} bits, got {op.weight.min()} to {op.weight.max()}."
        )
    largest = _check_sums(op, sources, model)
    facts = _facts(op, model)
    if facts.get("float32_exact") and max(largest, partial_sum_bound(op.weight, params)) > FLOAT32_EXACT:
        raise LoweringError(
            f"layer '{op.name}': its facts say that float32 holds its sums, but not all are within 2**24."
        )
    if facts.get("avx2_safe") and largest_pair_sum(op.weight, params) > SATURATING_SUM:
        raise LoweringError(
            f"layer '{op.name}': its facts say that no CPU saturates, but two of its products can exceed 16 bits."
        )


@check_op.register(IntegerAvgPool2d)
def _(op: IntegerAvgPool2d, sources: list[Range], model: IntegerModel) -> None:
    params, area = _format(op.inputs[0], op, model), prod(op.kernel)
    _check_sums(op, sources, model)
    if op.rescale is not None:
        _check_ratio(op, op.rescale, params.scale / area, model)
    elif op.name in model.facts:
        for output in model.outputs.values():
            if moved_from(output.tensor, model) == op.name and (np.asarray(output.unit) != params.scale / area).any():
                raise LoweringError(
                    f"'{op.name}': expected sums that are worth {params.scale / area}, got {output.unit}."
                )


@check_op.register(IntegerRequantize)
def _(op: IntegerRequantize, sources: list[Range], model: IntegerModel) -> None:
    params = _format(op.inputs[0], op, model)
    _check_sums(op, sources, model)
    _check_ratio(op, op.rescale, params.scale, model)


@check_op.register(IntegerFloorAvgPool2d)
def _(op: IntegerFloorAvgPool2d, sources: list[Range], model: IntegerModel) -> None:
    params, ((low, high),) = _format(op.inputs[0], op, model), sources
    if (
        low < 0
        or magnitude(window_sums(op.kernel, (low, high))) > INT32_MAX * 2**15
        or model.formats.get(op.name) != params
    ):
        raise LoweringError(
            f"'{op.name}': expected a mean of values that are not negative, in their own format, got [{low}, {high}]."
        )


@check_op.register(IntegerAdd)
def _(op: IntegerAdd, sources: list[Range], model: IntegerModel) -> None:
    first, second = (_format(name, op, model) for name in op.inputs)
    output = _format(op.name, op, model)
    if len(op.multipliers) != 2 or min(op.multipliers) < 1 or not 0 <= op.shift <= MAX_SHIFT:
        raise LoweringError(
            f"addition '{op.name}': expected two positive multipliers and a shift from 0 to {MAX_SHIFT}, "
            f"got {op.multipliers} and {op.shift}."
        )
    wide = any(params.bit_width == UNCLAMPED_BITS for params in (first, second, output))
    largest = weighted_bound(sources if wide else [first.ends, second.ends], op.multipliers)
    if largest > (_INT64_SUM if wide else FLOAT32_EXACT):
        raise LoweringError(
            f"addition '{op.name}': its sum can reach {largest}, beyond what "
            f"{'int64' if wide else 'float32'} holds exactly. Lower the model again."
        )
    if op.name not in model.facts:
        return
    for params, multiplier in zip((first, second), op.multipliers, strict=True):
        wanted = params.scale / output.scale * 2**op.shift
        if abs(multiplier - wanted) > 0.5 + MAX_ADDITION_CHANGE * wanted and not wanted < multiplier == 1:
            raise LoweringError(
                f"addition '{op.name}': expected the multiplier {round(wanted)} of its scales, or one near it, got {multiplier}."
            )


def _facts(op: Node, model: IntegerModel) -> Mapping[str, Any]:
    """What lowering wrote down about an operation; nothing for what it did not look at."""
    facts: Mapping[str, Any] = model.facts.get(op.name, {})
    return facts


def _count(op: Node, facts: Mapping[str, Any], name: str, otherwise: int) -> int:
    """A number among the facts, which a file may have changed to anything."""
    found = facts.get(name, otherwise)
    if type(found) is not int:
        raise LoweringError(f"'{op.name}': expected a whole number for '{name}' among its facts, got {shown(found)}.")
    return found


def _check_sums(op: Accumulate | IntegerRequantize, sources: list[Range], model: IntegerModel) -> int:
    """Check accumulators and their multipliers; returns the largest magnitude of an accumulator."""
    low, high = accumulators(op, sources, model)
    largest = int(max(high.max(), -low.min()))
    if high.max() > INT32_MAX or low.min() < INT32_MIN:
        raise LoweringError(
            f"layer '{op.name}': an accumulator can reach {largest}, beyond int32. Lower its weight or activation bits."
        )
    facts, rescale = _facts(op, model), op.rescale
    claimed = _count(op, facts, "largest_accumulator", largest)
    if largest > claimed:
        raise LoweringError(
            f"layer '{op.name}': its facts say that no accumulator exceeds {claimed}, but one can reach {largest}."
        )
    if rescale is None:
        if op.name in model.formats:
            raise LoweringError(f"layer '{op.name}': expected no format of accumulators that are not rescaled.")
        return largest
    output = _format(op.name, op, model)
    channels = op.shape[0] if isinstance(op, IntegerConv2d | IntegerLinear) else 1
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
    agree = verify(rescale.multipliers, low, high, rescale.low, rescale.high)
    if not agree.all():
        channel = int(np.argmin(agree))
        b, c = rescale.multipliers.multiplier[channel], rescale.multipliers.shift[channel]
        raise LoweringError(
            f"layer '{op.name}', channel {channel}: its multiplier {b} / 2**{c} is not proved: float32 engines would compute "
            f"other integers for some accumulator in [{low[channel]}, {high[channel]}]. Lower the model again."
        )


def _check_ratio(op: Node, rescale: Rescale, unit: float, model: IntegerModel) -> None:
    """Where one multiplier stands for the ratio of two scales: that it is near enough to it."""
    if op.name not in model.facts:
        return
    wanted, found = unit / model.formats[op.name].scale, float(rescale.multipliers.real()[0])
    if abs(found - wanted) > max(MAX_RELATIVE_CHANGE * wanted, 2.0**-MAX_SHIFT):
        raise LoweringError(
            f"'{op.name}': expected a multiplier near {wanted:.6g}, the ratio of its scales, got {found:.6g}."
        )
