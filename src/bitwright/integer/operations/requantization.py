# SPDX-License-Identifier: MIT
"""The same values at another scale, width or clamp."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bitwright.graph.nodes import Clamp, Node, Requantize
from bitwright.integer.execution.prepared import PreparedModel, Step, as_reference, prepare_op, rescaled_step
from bitwright.integer.execution.reference import execute_op, finish
from bitwright.integer.execution.triton_steps import as_prepared, triton_op
from bitwright.integer.lowering.lower import Lowering, certified_rescale, lower_node
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import IntegerRequantize
from bitwright.integer.placeholder import placeholder_op, placeholder_rescale
from bitwright.integer.proof.bounds import Int64Array
from bitwright.integer.proof.ranges import Range, accumulators, rescaled_range, result_range
from bitwright.integer.proof.recheck import check_op, check_ratio, check_sums, format_of
from bitwright.integer.quant_params import QuantParams
from bitwright.integer.shapes import rescaled, shape_of
from bitwright.quantizer.plan import QuantPlan


@lower_node.register
def _(node: Requantize | Clamp, lowering: Lowering) -> Node:
    (source,) = lowering.inputs(node)
    params = lowering.formats[source]
    rescale = certified_rescale(node, lowering, params.scale, params.ends)
    return IntegerRequantize(name=node.name, inputs=(source,), shape=node.shape, place=node.place, rescale=rescale)


@placeholder_op.register
def _(node: Requantize | Clamp, plan: QuantPlan) -> Node:
    rescale = placeholder_rescale(node, plan)
    assert rescale is not None  # accumulators that leave the network are of layers and means
    return IntegerRequantize(name=node.name, inputs=node.inputs, shape=node.shape, place=node.place, rescale=rescale)


@shape_of.register
def _(op: IntegerRequantize, inputs: list[Tensor]) -> Tensor:
    (values,) = inputs
    return rescaled(values, op.rescale)


@accumulators.register
def _(op: IntegerRequantize, sources: list[Range], model: IntegerModel) -> tuple[Int64Array, Int64Array]:
    ((low, high),) = sources
    return np.array([low]), np.array([high])


@result_range.register
def _(op: IntegerRequantize, sources: list[Range], model: IntegerModel) -> Range:
    return rescaled_range(*accumulators(op, sources, model), op.rescale)


@check_op.register
def _(op: IntegerRequantize, sources: list[Range], model: IntegerModel) -> None:
    params = format_of(op.inputs[0], op, model)
    check_sums(op, sources, model)
    check_ratio(op, op.rescale, params.scale, model)


@execute_op.register
def _(op: IntegerRequantize, inputs: list[Tensor], formats: list[QuantParams]) -> Tensor:
    return finish(inputs[0].long(), op.rescale)


@prepare_op.register
def _(op: IntegerRequantize, model: PreparedModel) -> Step:
    params = model.model.formats[op.inputs[0]]
    if not model.held_in_float32(op.inputs[0]):
        return as_reference(op, model)
    low, high = map(np.atleast_1d, params.ends)
    return rescaled_step(torch.clone, torch.clone, op, op.rescale, low, high, model)


triton_op.register(IntegerRequantize, as_prepared)
