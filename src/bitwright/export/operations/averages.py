# SPDX-License-Identifier: MIT
"""Means over windows in every engine: depthwise convolutions with weights of one, or sums over axes."""

from __future__ import annotations

from bitwright.export.conditions import require_float32_mean
from bitwright.export.litert.builder import LitertBuilder
from bitwright.export.litert.convolution import add_convolution
from bitwright.export.litert.exporter import add_to_litert
from bitwright.export.litert.int64 import floor_average as floor_average_in_litert
from bitwright.export.litert.reduction import add_reduction, is_reduction
from bitwright.export.onnx.builder import OnnxBuilder
from bitwright.export.onnx.exporter import add_to_onnx
from bitwright.export.onnx.float32 import Float32Graph, add_in_float32
from bitwright.export.onnx.float64 import floor_average
from bitwright.export.onnx.float_network import add_float
from bitwright.export.onnx.graph import OnnxGraph, convolution_attributes, window
from bitwright.export.onnx.qlinear import add_qlinear, qlinear_rescale
from bitwright.export.onnx.split import BYTE_BITS
from bitwright.export.onnx.sums import add_average_in_float32, add_sums
from bitwright.export.openvino.builder import OpenvinoBuilder, Value
from bitwright.export.openvino.exporter import add_to_openvino
from bitwright.export.openvino.sums import products
from bitwright.graph.evaluate import Tensors
from bitwright.graph.nodes import AvgPool2d
from bitwright.integer.convolution import as_convolution
from bitwright.integer.ops import IntegerAvgPool2d, IntegerFloorAvgPool2d


@add_float.register
def _(node: AvgPool2d, made: OnnxGraph, parameters: Tensors) -> None:
    attributes = window(node.kernel, node.stride, node.padding)
    # ONNX Runtime's quantizer makes an operator of the pool that knows none, not even ones.
    del attributes["dilations"]
    made.node("AveragePool", [node.inputs[0]], node.name, **attributes, count_include_pad=1)


@add_to_onnx.register
def _(op: IntegerAvgPool2d, builder: OnnxBuilder) -> None:
    convolution = as_convolution(op)
    attributes = convolution_attributes(convolution)
    if builder.exceeds_byte(op.inputs[0]):
        add_average_in_float32(op, builder, convolution, attributes)
        return
    weight, rescale = builder.shared_weight(convolution), qlinear_rescale(op, builder)
    if rescale is None:
        add_sums(op, builder, "ConvInteger", weight, None, op.rescale, attributes)
    else:
        add_qlinear(op, rescale, builder, op.inputs[0], weight, convolution.bias, attributes)


@add_in_float32.register
def _(op: IntegerAvgPool2d, builder: Float32Graph) -> None:
    (source,), convolution = op.inputs, as_convolution(op)
    ones, attributes = builder.shared_weight(convolution), convolution_attributes(convolution)
    if op.name not in builder.means:
        # Integers are rounded to themselves. A multiplication behind constant weights would be folded into them, which rounds
        # every product.
        sums = builder.node("Conv", [source, ones], f"{op.name}.sums", **attributes)
        builder.node("Round", [sums], builder.accumulator(op))
    else:
        high, low = (
            builder.node("Conv", [byte, ones], f"{byte}.sums", **attributes)
            for byte in builder.in_bytes(source, f"{op.name}.high", f"{op.name}.low")
        )
        builder.joined(high, low, BYTE_BITS, op)
    builder.requantize(op)


@add_to_openvino.register
def _(op: IntegerAvgPool2d, builder: OpenvinoBuilder) -> Value:
    require_float32_mean(op, builder.model.formats[op.inputs[0]])
    # Bytes would have to be quantized anew for it; float32 adds them exactly.
    return builder.rescaled(op, products(as_convolution(op), builder, builder.values[op.inputs[0]], builder.floats))


@add_to_litert.register
def _(op: IntegerAvgPool2d, builder: LitertBuilder) -> None:
    if is_reduction(op, builder):
        add_reduction(op, builder)
    else:
        add_convolution(op, op.rescale, builder)


@add_to_onnx.register
def _(op: IntegerFloorAvgPool2d, builder: OnnxBuilder) -> None:
    floor_average(op, builder)


add_to_litert.register(IntegerFloorAvgPool2d, floor_average_in_litert)
