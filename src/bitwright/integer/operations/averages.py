# SPDX-License-Identifier: MIT
"""Means over windows: sums whose division by the area is part of the multiplier, and the published models', rounded down."""

from __future__ import annotations

from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.errors import LoweringError
from bitwright.graph.nodes import AvgPool2d, Node
from bitwright.integer.convolution import as_convolution
from bitwright.integer.execution.prepared import PreparedModel, Step, as_reference, prepare_op, rescaled_step
from bitwright.integer.execution.reference import execute_op, finish
from bitwright.integer.execution.triton_steps import as_prepared, triton_op
from bitwright.integer.lowering.lower import Lowering, certified_rescale, lower_node
from bitwright.integer.model import IntegerModel, moved_from
from bitwright.integer.multipliers import INT32_MAX
from bitwright.integer.ops import IntegerAvgPool2d, IntegerConv2d, IntegerFloorAvgPool2d
from bitwright.integer.placeholder import placeholder_op, placeholder_rescale
from bitwright.integer.proof.bounds import FLOAT32_EXACT, Int64Array
from bitwright.integer.proof.ranges import Range, accumulators, rescaled_range, result_range
from bitwright.integer.proof.recheck import check_op, check_ratio, check_sums, format_of
from bitwright.integer.quant_params import QuantParams
from bitwright.integer.shapes import rescaled, shape_of
from bitwright.quantizer.plan import QuantPlan
from bitwright.quantizer.sums import magnitude, window_sums
from bitwright.scheme import MAX_BITS


@lower_node.register
def _(node: AvgPool2d, lowering: Lowering) -> Node:
    (source,) = lowering.inputs(node)
    params = lowering.formats[source]
    sums = window_sums(node.kernel, params.ends)
    unit = params.scale / prod(node.kernel)
    rescale = None
    if node.name in lowering.source.plan.accumulators:
        lowering.units[node.name] = torch.tensor([unit], dtype=torch.float64)
        lowering.facts[node.name] = {"channels": 1}
    else:
        rescale = certified_rescale(node, lowering, unit, sums)
    lowering.facts[node.name]["largest_accumulator"] = magnitude(sums)
    return IntegerAvgPool2d(
        name=node.name, inputs=(source,), shape=node.shape, place=node.place, rescale=rescale,
        kernel=node.kernel, stride=node.stride, padding=node.padding,
    )  # fmt: skip


@placeholder_op.register
def _(node: AvgPool2d, plan: QuantPlan) -> Node:
    return IntegerAvgPool2d(
        name=node.name, inputs=node.inputs, shape=node.shape, place=node.place, rescale=placeholder_rescale(node, plan),
        kernel=node.kernel, stride=node.stride, padding=node.padding,
    )  # fmt: skip


@as_convolution.register
def _(op: IntegerAvgPool2d) -> IntegerConv2d:
    channels = op.shape[0]
    return IntegerConv2d(
        name=op.name, inputs=op.inputs, shape=op.shape, place=op.place, rescale=op.rescale,
        weight=np.ones((channels, 1, *op.kernel), np.int8), weight_bits=MAX_BITS, bias=np.zeros(channels, np.int32),
        stride=op.stride, padding=op.padding, dilation=(1, 1), groups=channels,
    )  # fmt: skip


@shape_of.register
def _(op: IntegerAvgPool2d, inputs: list[Tensor]) -> Tensor:
    (values,) = inputs
    return rescaled(F.avg_pool2d(values, op.kernel, op.stride, op.padding), op.rescale)


@shape_of.register
def _(op: IntegerFloorAvgPool2d, inputs: list[Tensor]) -> Tensor:
    (values,) = inputs
    return F.avg_pool2d(values, op.kernel, op.stride, op.padding)


@accumulators.register
def _(op: IntegerAvgPool2d, sources: list[Range], model: IntegerModel) -> tuple[Int64Array, Int64Array]:
    low, high = window_sums(op.kernel, sources[0])
    return np.array([low]), np.array([high])


@result_range.register
def _(op: IntegerAvgPool2d, sources: list[Range], model: IntegerModel) -> Range:
    return rescaled_range(*accumulators(op, sources, model), op.rescale)


@result_range.register
def _(op: IntegerFloorAvgPool2d, sources: list[Range], model: IntegerModel) -> Range:
    low, high = sources[0]
    return min(low, 0), max(high, 0)  # padding counts as zeros


@check_op.register
def _(op: IntegerAvgPool2d, sources: list[Range], model: IntegerModel) -> None:
    unit = format_of(op.inputs[0], op, model).scale / prod(op.kernel)
    check_sums(op, sources, model)
    if op.rescale is not None:
        check_ratio(op, op.rescale, unit, model)
    elif op.name in model.facts:
        for output in model.outputs.values():
            if moved_from(output.tensor, model) == op.name and (np.asarray(output.unit) != unit).any():
                raise LoweringError(f"'{op.name}': expected sums that are worth {unit}, got {output.unit}.")


@check_op.register
def _(op: IntegerFloorAvgPool2d, sources: list[Range], model: IntegerModel) -> None:
    params, ((low, high),) = format_of(op.inputs[0], op, model), sources
    largest = magnitude(window_sums(op.kernel, (low, high)))
    if low < 0 or largest > INT32_MAX * 2**15 or model.formats.get(op.name) != params:
        raise LoweringError(
            f"'{op.name}': expected a mean of values that are not negative, in their own format, got [{low}, {high}]."
        )


@execute_op.register
def _(op: IntegerAvgPool2d, inputs: list[Tensor], formats: list[QuantParams]) -> Tensor:
    return finish(_window_sums(op, inputs[0]), op.rescale)


@execute_op.register
def _(op: IntegerFloorAvgPool2d, inputs: list[Tensor], formats: list[QuantParams]) -> Tensor:
    return torch.div(_window_sums(op, inputs[0]), prod(op.kernel), rounding_mode="floor").to(torch.int32)


def _window_sums(op: IntegerAvgPool2d | IntegerFloorAvgPool2d, values: Tensor) -> Tensor:
    """int64; float64 holds every sum, and has a pooling kernel on every device."""
    return F.avg_pool2d(values.double(), op.kernel, op.stride, op.padding, divisor_override=1).to(torch.int64)


@prepare_op.register
def _(op: IntegerAvgPool2d, model: PreparedModel) -> Step:
    params = model.model.formats[op.inputs[0]]
    if not model.held_in_float32(op.inputs[0]):
        return as_reference(op, model)
    sums = window_sums(op.kernel, params.ends)
    low, high = map(np.atleast_1d, sums)
    exact = magnitude(sums) <= FLOAT32_EXACT

    def summed(values: Tensor) -> Tensor:
        values = values if exact else values.double()
        return F.avg_pool2d(values, op.kernel, op.stride, op.padding, divisor_override=1)

    return rescaled_step(lambda values: summed(values).float(), summed, op, op.rescale, low, high, model)


prepare_op.register(IntegerFloorAvgPool2d, as_reference)
triton_op.register(IntegerAvgPool2d, as_prepared)
triton_op.register(IntegerFloorAvgPool2d, as_prepared)
