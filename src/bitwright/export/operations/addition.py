# SPDX-License-Identifier: MIT
"""Sums of two tensors in every engine."""

from __future__ import annotations

from onnx import TensorProto

from bitwright.export.litert.addition import add_sum
from bitwright.export.litert.exporter import add_to_litert
from bitwright.export.onnx.builder import OnnxBuilder
from bitwright.export.onnx.exporter import add_to_onnx
from bitwright.export.onnx.float32 import add_in_float32
from bitwright.export.onnx.float64 import add_in_float64
from bitwright.export.onnx.float_network import add_float, clamped
from bitwright.export.onnx.graph import OnnxGraph
from bitwright.export.onnx.scaled import add_scaled_sum
from bitwright.export.openvino.builder import OpenvinoBuilder, Value
from bitwright.export.openvino.exporter import add_to_openvino
from bitwright.graph.evaluate import Tensors
from bitwright.graph.nodes import Add
from bitwright.integer.ops import IntegerAdd


@add_float.register
def _(node: Add, made: OnnxGraph, parameters: Tensors) -> None:
    clamped(made, node.name, node.bounds, lambda name: made.node("Add", list(node.inputs), name))


@add_to_onnx.register
def _(op: IntegerAdd, builder: OnnxBuilder) -> None:
    if TensorProto.DOUBLE in map(builder.element_type, (*op.inputs, op.name)):
        add_in_float64(op, builder)
        return
    add_scaled_sum(op, builder)


add_in_float32.register(IntegerAdd, add_scaled_sum)
add_to_litert.register(IntegerAdd, add_sum)


@add_to_openvino.register
def _(op: IntegerAdd, builder: OpenvinoBuilder) -> Value:
    terms = [
        builder.ops.multiply(builder.addend(source), builder.floats(multiplier / 2**op.shift))
        for source, multiplier in zip(op.inputs, op.multipliers, strict=True)
    ]
    return builder.rounded(builder.ops.add(*terms), op.low, op.high)
