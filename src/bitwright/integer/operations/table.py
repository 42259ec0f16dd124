# SPDX-License-Identifier: MIT
"""Tables: `T[q]`, one entry for each integer of a format of bytes, whatever function they came from.

The entries are what a table means: `clamp(round_half_even(f(s_x q) / s_y))`, rounded from float64. Where the scale s_y of the
result is the table's own, it is moved by up to 0.5 % until every f(s_x q) / s_y keeps the margin of `proof.margins` from a
half. Then engines may compute f in floating point, each in its own way, which is what they are fast at. Where there is no such
scale (it is shared with other tensors, the result has more than 8 bits, or f has values that are not finite), they look the
entries up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.errors import LoweringError
from bitwright.graph.functions import Program, check_program, compute
from bitwright.graph.nodes import Node
from bitwright.graph.operations.table import Table
from bitwright.integer.execution.prepared import PreparedModel, Step, prepare_op
from bitwright.integer.execution.reference import execute_op
from bitwright.integer.execution.triton_steps import as_prepared, triton_op
from bitwright.integer.lowering.lower import Lowering, lower_node
from bitwright.integer.model import IntegerModel
from bitwright.integer.placeholder import params_of, placeholder_op
from bitwright.integer.proof.margins import SCALE_FREEDOM, TABLE_MARGIN, Float64Array, margin, nearby
from bitwright.integer.proof.ranges import Range, result_range
from bitwright.integer.proof.recheck import check_op
from bitwright.integer.quant_params import QuantParams
from bitwright.integer.shapes import shape_of
from bitwright.quantizer.plan import QuantPlan
from bitwright.scheme import MAX_BITS
from bitwright.training.quantized import Certificate

_SLACK = 1e-6
"""Of a step: how far float64 functions of other machines may be from those that made the entries."""
_LARGEST = 2.0**20
"""Real results beyond which no engine's rounding is counted on."""


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerTable(Node):
    """`entries[q - quant_min]`, for the format that q has.

    Attributes:
        program: The function of real numbers, as `graph.functions` writes it.
        computable: Whether all results keep the margin, so that engines may compute the function.
        entries: int32 [number of integers of the input's format].
    """

    program: tuple[str | float, ...]
    computable: bool
    entries: npt.NDArray[np.int32]

    def __post_init__(self) -> None:
        check_program(self.program)


def real_results(program: Program, source: QuantParams, scale: float) -> Float64Array:
    """f(s_x q) / s_y in float64, for every integer q of a format, in order."""
    integers = torch.arange(source.quant_min, source.quant_max + 1, dtype=torch.float64)
    return np.asarray(compute(program, integers * source.scale).numpy() / scale)


def rounded_entries(real: Float64Array, low: int, high: int) -> npt.NDArray[np.int32]:
    """Results of a table, halves to even, clamped."""
    return np.clip(np.rint(real), low, high).astype(np.int32)


def is_computable(real: Float64Array, params: QuantParams) -> bool:
    """Whether engines may compute what rounds to the entries in a format."""
    in_reach = bool(np.isfinite(real).all()) and float(np.abs(real).max()) <= _LARGEST
    return (
        params.bit_width <= MAX_BITS and in_reach and margin(real, params.quant_min, params.quant_max) >= TABLE_MARGIN
    )


def _table(node: Table, inputs: tuple[str, ...], source: QuantParams, output: QuantParams) -> IntegerTable:
    """The table between two formats."""
    real = real_results(node.program, source, output.scale)
    if np.isnan(real).any():
        place = source.quant_min + int(np.argmax(np.isnan(real)))
        raise LoweringError(
            f"table '{node.name}': expected a function of all that its input can be, got none of {place * source.scale:.6g} "
            f"({node.place}). Clamp the input to where the function is defined."
        )
    entries = rounded_entries(real, output.quant_min, output.quant_max)
    return IntegerTable(
        name=node.name, inputs=inputs, shape=node.shape, place=node.place, program=node.program,
        computable=is_computable(real, output), entries=entries,
    )  # fmt: skip


@lower_node.register
def _(node: Table, lowering: Lowering) -> Node:
    inputs = lowering.inputs(node)
    source, wanted = lowering.formats[inputs[0]], lowering.params(node)
    plan = lowering.source.plan
    own = plan.quantizer_of[node.name] not in plan.shared()
    chosen = _table(node, inputs, source, wanted)
    output = wanted
    if own and not chosen.computable:
        for scale in nearby(wanted.scale, SCALE_FREEDOM):
            params = QuantParams(wanted.format, scale)
            if is_computable(real_results(node.program, source, scale), params):
                output, chosen = params, _table(node, inputs, source, params)
                break
    lowering.formats[node.name] = output
    lowering.facts[node.name] = {
        "computable": chosen.computable,
        "relative_change": output.scale / wanted.scale - 1,
    }
    device = lowering.source.activation_quantizer(node.name).scale.device
    lowering.certificates[node.name] = Certificate(
        table=torch.from_numpy(chosen.entries.astype(np.float32)).to(device),
        table_start=source.quant_min,
        format=output.format,
        scale=torch.tensor(output.scale, dtype=torch.float32, device=device),
    )
    return chosen


@placeholder_op.register
def _(node: Table, plan: QuantPlan) -> Node:
    # At scale 1, a function may not be defined: its place is taken by one that is.
    source, output = (params_of(name, plan) for name in (node.inputs[0], node.name))
    real = np.nan_to_num(real_results(node.program, source, output.scale))
    program: Program = node.program if np.array_equal(real, real_results(node.program, source, 1.0)) else ("x", "abs")
    stand_in = Table(name=node.name, inputs=node.inputs, shape=node.shape, place=node.place, program=program)
    return _table(stand_in, node.inputs, source, output)


@shape_of.register
def _(op: IntegerTable, inputs: list[Tensor]) -> Tensor:
    (values,) = inputs
    if op.entries.ndim != 1:
        raise ValueError(f"entries of shape {op.entries.shape}")
    return values


@result_range.register
def _(op: IntegerTable, sources: list[Range], model: IntegerModel) -> Range:
    # Of all entries, not of those that the input's range leaves: rechecking has compared their number with the format.
    return int(op.entries.min()), int(op.entries.max())


@check_op.register
def _(op: IntegerTable, sources: list[Range], model: IntegerModel) -> None:
    if not all(name in model.formats for name in (*op.inputs, op.name)):
        raise LoweringError(f"table '{op.name}': expected tensors with formats, got accumulators.")
    source, output = (model.formats[name] for name in (*op.inputs, op.name))
    if source.bit_width > MAX_BITS or len(op.entries) != source.format.span + 1:
        raise LoweringError(
            f"table '{op.name}': expected one entry for each integer of a format of at most {MAX_BITS} bits, got "
            f"{len(op.entries)} for {source.format.span + 1} of {source.bit_width} bits."
        )
    real = real_results(op.program, source, output.scale)
    clamped = np.clip(real, output.quant_min, output.quant_max)
    wrong = ~(np.abs(op.entries - clamped) <= 0.5 + _SLACK)
    if wrong.any():
        place = int(np.argmax(wrong))
        raise LoweringError(
            f"table '{op.name}': expected the entry of {place + source.quant_min} to be {clamped[place]:.6g}, rounded, "
            f"got {op.entries[place]}."
        )
    if op.computable and not is_computable(real, output):
        raise LoweringError(
            f"table '{op.name}': it says that engines may compute its function, but a result comes within {TABLE_MARGIN} of a "
            "half. Lower the model again."
        )


@execute_op.register
def _(op: IntegerTable, inputs: list[Tensor], formats: Sequence[QuantParams]) -> Tensor:
    entries = torch.from_numpy(np.array(op.entries)).to(inputs[0].device)
    return entries[inputs[0].long() - formats[0].quant_min]


@prepare_op.register
def _(op: IntegerTable, model: PreparedModel) -> Step:
    kind = torch.float32 if model.held_in_float32(op.name) else torch.int32
    entries = torch.from_numpy(op.entries.astype(np.int32)).to(model.device, kind)
    first = model.model.formats[op.inputs[0]].quant_min
    return lambda inputs: entries[inputs[0].to(torch.int32) - first]


triton_op.register(IntegerTable, as_prepared)
