# SPDX-License-Identifier: MIT
"""The same values at another scale, width or clamp, in every engine."""

from __future__ import annotations

from bitwright.export.litert.builder import LitertBuilder
from bitwright.export.litert.exporter import add_to_litert
from bitwright.export.litert.rescaling import rescale
from bitwright.export.onnx.builder import OnnxBuilder
from bitwright.export.onnx.exporter import add_to_onnx
from bitwright.export.onnx.float32 import add_in_float32
from bitwright.export.onnx.float64 import rescale_in_float64
from bitwright.export.onnx.float_network import add_clamp, add_float
from bitwright.export.onnx.graph import OnnxGraph
from bitwright.export.onnx.scaled import requantize_tensor
from bitwright.export.onnx.sums import needs_float64
from bitwright.export.openvino.builder import OpenvinoBuilder, Value
from bitwright.export.openvino.exporter import add_to_openvino
from bitwright.graph.evaluate import Tensors
from bitwright.graph.nodes import Clamp, Requantize
from bitwright.integer.ops import IntegerRequantize


@add_float.register
def _(node: Clamp, made: OnnxGraph, parameters: Tensors) -> None:
    add_clamp(made, node.inputs[0], node.name, node.bounds)


@add_float.register
def _(node: Requantize, made: OnnxGraph, parameters: Tensors) -> None:
    made.node("Identity", [node.inputs[0]], node.name)


@add_to_onnx.register
def _(op: IntegerRequantize, builder: OnnxBuilder) -> None:
    if needs_float64(op, op.rescale, builder):
        rescale_in_float64(op, op.rescale, builder, op.inputs[0])
        return
    requantize_tensor(op, builder)


add_in_float32.register(IntegerRequantize, requantize_tensor)


@add_to_openvino.register
def _(op: IntegerRequantize, builder: OpenvinoBuilder) -> Value:
    scale = builder.floats(builder.multiplier(op, op.rescale)[0])
    return builder.rounded(builder.ops.multiply(builder.values[op.inputs[0]], scale), op.rescale.low, op.rescale.high)


@add_to_litert.register
def _(op: IntegerRequantize, builder: LitertBuilder) -> None:
    rescale(op, op.rescale, builder, builder.held[op.inputs[0]])
