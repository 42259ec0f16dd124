# SPDX-License-Identifier: MIT
"""What makes only integers that it reads: maxima, moves, concatenations. They are nodes of `graph`, the same in integers."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.errors import LoweringError
from bitwright.graph.evaluate import select
from bitwright.graph.nodes import Concat, Dropout, MaxPool2d, Move, Node, Pad, Selection
from bitwright.integer.execution.prepared import PreparedModel, Step, as_reference, prepare_op
from bitwright.integer.execution.reference import execute_op
from bitwright.integer.execution.triton_steps import as_prepared, fits_a_byte, storage_of, triton_op
from bitwright.integer.lowering.lower import Lowering, lower_node
from bitwright.integer.model import IntegerModel
from bitwright.integer.placeholder import placeholder_op
from bitwright.integer.proof.ranges import Range, result_range
from bitwright.integer.proof.recheck import check_op
from bitwright.integer.quant_params import QuantParams
from bitwright.integer.shapes import shape_of
from bitwright.quantizer.plan import QuantPlan
from bitwright.quantizer.units import moved_unit


@lower_node.register
def _(node: Concat, lowering: Lowering) -> Node:
    inputs = lowering.inputs(node)
    lowering.formats[node.name] = lowering.formats[inputs[0]]
    return node.reading(*inputs)  # type: ignore[no-any-return]


@lower_node.register
def _(node: Dropout, lowering: Lowering) -> None:
    lowering.renamed[node.name] = lowering.inputs(node)[0]


@lower_node.register
def _(node: Selection, lowering: Lowering) -> Node:
    (source,) = lowering.inputs(node)
    if source in lowering.formats:
        lowering.formats[node.name] = lowering.formats[source]
    else:
        unit = moved_unit(node, lowering.units[source], lowering.source.plan.graph[node.inputs[0]].shape)
        assert unit is not None  # the plan lets no other accumulators leave
        lowering.units[node.name] = unit
    return node.reading(source)  # type: ignore[no-any-return]


@placeholder_op.register
def _(node: Selection | Concat, plan: QuantPlan) -> Node:
    return node


@shape_of.register
def _(op: Concat, inputs: list[Tensor]) -> Tensor:
    return torch.cat(inputs, 1)


@shape_of.register
def _(op: Selection, inputs: list[Tensor]) -> Tensor:
    (values,) = inputs
    return select(op, values)


@result_range.register
def _(op: Concat, sources: list[Range], model: IntegerModel) -> Range:
    return min(low for low, _ in sources), max(high for _, high in sources)


@result_range.register
def _(op: Selection, sources: list[Range], model: IntegerModel) -> Range:
    return sources[0]


@result_range.register
def _(op: Pad, sources: list[Range], model: IntegerModel) -> Range:
    low, high = sources[0]
    return min(low, 0), max(high, 0)


@check_op.register
def _(op: Selection | Concat, sources: list[Range], model: IntegerModel) -> None:
    formats = {model.formats.get(name) for name in (op.name, *op.inputs)}
    if len(formats) != 1 or (isinstance(op, Concat) and None in formats):
        raise LoweringError(f"'{op.name}': expected the format of what it moves, got another one.")


@execute_op.register
def _(op: Concat, inputs: list[Tensor], formats: list[QuantParams]) -> Tensor:
    return torch.cat(inputs, 1)


@execute_op.register
def _(op: MaxPool2d, inputs: list[Tensor], formats: list[QuantParams]) -> Tensor:
    # float64 holds every int32 integer, and has a pooling kernel on every device.
    return select(op, inputs[0].double()).to(torch.int32)


@execute_op.register
def _(op: Move, inputs: list[Tensor], formats: list[QuantParams]) -> Tensor:
    return select(op, inputs[0])


@prepare_op.register
@triton_op.register
def _(op: Concat, model: PreparedModel) -> Step:
    return lambda inputs: torch.cat(inputs, 1)


@prepare_op.register
def _(op: Selection, model: PreparedModel) -> Step:
    if not model.held_in_float32(op.name):
        return as_reference(op, model)
    return lambda inputs: select(op, inputs[0])


@triton_op.register
def _(op: MaxPool2d, model: PreparedModel) -> Step:
    kind = storage_of(op.name, model)
    # float16 holds the integers of 8 bits, and PyTorch pools no bytes on CUDA.
    pooled = torch.float16 if fits_a_byte(kind) else torch.float32
    if kind is torch.int32:
        return as_prepared(op, model)
    return lambda inputs: select(op, inputs[0].to(pooled)).to(kind)


@triton_op.register
def _(op: Move, model: PreparedModel) -> Step:
    return lambda inputs: select(op, inputs[0])
