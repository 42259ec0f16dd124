# SPDX-License-Identifier: MIT
"""Sums of two tensors at scales of their own, rounded once.

The multipliers are chosen such that float32 rounds neither a term nor the sum; where tensors have 32 bits, as in the published
models, int64 holds them.
"""

from __future__ import annotations

from fractions import Fraction

import torch
from torch import Tensor

from bitwright.errors import LoweringError
from bitwright.graph.nodes import Add, Node
from bitwright.integer.execution.blockwise import weighted_sum
from bitwright.integer.execution.prepared import PreparedModel, Step, as_reference, prepare_op
from bitwright.integer.execution.reference import execute_op, round_shift
from bitwright.integer.execution.triton_steps import add_on_triton, as_prepared, triton_op
from bitwright.integer.lowering.lower import Lowering, lower_node
from bitwright.integer.model import IntegerModel
from bitwright.integer.multipliers import MAX_ADDITION_CHANGE, MAX_SHIFT, add_multipliers
from bitwright.integer.ops import IntegerAdd
from bitwright.integer.placeholder import params_of, placeholder_op
from bitwright.integer.proof.bounds import FLOAT32_EXACT
from bitwright.integer.proof.ranges import Range, result_range
from bitwright.integer.proof.recheck import check_op, format_of
from bitwright.integer.quant_params import QuantParams
from bitwright.integer.shapes import shape_of
from bitwright.quantizer.formats import UNCLAMPED_BITS
from bitwright.quantizer.plan import QuantPlan
from bitwright.quantizer.sums import weighted_bound
from bitwright.training.quantized import Certificate

_INT64_SUM = 2**62


@lower_node.register
def _(node: Add, lowering: Lowering) -> Node:
    inputs = lowering.inputs(node)
    first, second = (lowering.formats[name] for name in inputs)
    output = lowering.params(node)
    low, high = lowering.limits(node)
    lowering.formats[node.name] = output
    try:
        a, b, shift = add_multipliers(first.scale / output.scale, second.scale / output.scale, first.ends, second.ends)
    except LoweringError as error:
        raise LoweringError(f"addition '{node.name}': {error}") from error
    device = lowering.source.activation_quantizer(node.name).scale.device
    pair = torch.tensor([a / 2**shift, b / 2**shift], dtype=torch.float32, device=device)
    lowering.certificates[node.name] = Certificate(pair)
    largest = weighted_bound((first.ends, second.ends), (a, b))
    lowering.facts[node.name] = {"largest_sum": largest, "float32_exact": True}
    return IntegerAdd(
        name=node.name, inputs=inputs, shape=node.shape, place=node.place,
        multipliers=(a, b), shift=shift, low=low, high=high,
    )  # fmt: skip


@placeholder_op.register
def _(node: Add, plan: QuantPlan) -> Node:
    params = params_of(node.name, plan)
    return IntegerAdd(
        name=node.name, inputs=node.inputs, shape=node.shape, place=node.place, multipliers=(1, 1), shift=0,
        low=params.quant_min, high=params.quant_max,
    )  # fmt: skip


@shape_of.register
def _(op: IntegerAdd, inputs: list[Tensor]) -> Tensor:
    first, second = inputs
    if first.shape != second.shape or not 0 <= op.shift <= MAX_SHIFT or op.low > op.high:
        raise ValueError("two tensors of one shape, a shift of 0 to 62 and a range are needed")
    return first


@result_range.register
def _(op: IntegerAdd, sources: list[Range], model: IntegerModel) -> Range:
    low, high = (
        sum(end * multiplier for end, multiplier in zip(ends, op.multipliers, strict=True))
        for ends in zip(*sources, strict=True)
    )
    first, last = (max(op.low, min(op.high, round(Fraction(end, 1 << op.shift)))) for end in (low, high))
    return first, last


@check_op.register
def _(op: IntegerAdd, sources: list[Range], model: IntegerModel) -> None:
    first, second = (format_of(name, op, model) for name in op.inputs)
    output = format_of(op.name, op, model)
    if len(op.multipliers) != 2 or min(op.multipliers) < 1 or not 0 <= op.shift <= MAX_SHIFT:
        raise LoweringError(
            f"addition '{op.name}': expected two positive multipliers and a shift from 0 to {MAX_SHIFT}, "
            f"got {op.multipliers} and {op.shift}."
        )
    unclamped = any(params.bit_width == UNCLAMPED_BITS for params in (first, second, output))
    largest = weighted_bound(sources if unclamped else [first.ends, second.ends], op.multipliers)
    if largest > (_INT64_SUM if unclamped else FLOAT32_EXACT):
        raise LoweringError(
            f"addition '{op.name}': its sum can reach {largest}, beyond what "
            f"{'int64' if unclamped else 'float32'} holds exactly. Lower the model again."
        )
    if op.name not in model.facts:
        return
    for params, multiplier in zip((first, second), op.multipliers, strict=True):
        wanted = params.scale / output.scale * 2**op.shift
        if abs(multiplier - wanted) > 0.5 + MAX_ADDITION_CHANGE * wanted and not wanted < multiplier == 1:
            raise LoweringError(
                f"addition '{op.name}': expected the multiplier {round(wanted)} of its scales, or one near it, got {multiplier}."
            )


@execute_op.register
def _(op: IntegerAdd, inputs: list[Tensor], formats: list[QuantParams]) -> Tensor:
    total = inputs[0].long() * op.multipliers[0] + inputs[1].long() * op.multipliers[1]
    return round_shift(total, torch.tensor(op.shift, device=total.device)).clamp_(op.low, op.high).to(torch.int32)


@prepare_op.register
def _(op: IntegerAdd, model: PreparedModel) -> Step:
    names = (*op.inputs, op.name)
    reach = weighted_bound((model.model.formats[name].ends for name in op.inputs), op.multipliers)
    if not all(map(model.held_in_float32, names)) or reach > FLOAT32_EXACT:
        return as_reference(op, model)
    # Products and sum are integers of at most 24 bits over a power of two: float32 rounds none of them.
    first, second = (multiplier / 2**op.shift for multiplier in op.multipliers)
    reuse = model.sole_reader(op, op.inputs[0])
    return lambda inputs: weighted_sum(inputs[0], inputs[1], (first, second), op.low, op.high, reuse)


@triton_op.register
def _(op: IntegerAdd, model: PreparedModel) -> Step:
    alike = all(model.shapes[name] == op.shape for name in op.inputs)
    return add_on_triton(op, model) if alike else as_prepared(op, model)
