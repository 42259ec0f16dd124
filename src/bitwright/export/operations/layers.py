# SPDX-License-Identifier: MIT
"""Convolutions and matrix products in every engine: sums of products of bytes wherever those are exact."""

from __future__ import annotations

import numpy as np

from bitwright.errors import ExportError
from bitwright.export.litert.builder import LitertBuilder
from bitwright.export.litert.convolution import add_convolution
from bitwright.export.litert.exporter import add_to_litert
from bitwright.export.onnx.builder import OnnxBuilder
from bitwright.export.onnx.exporter import add_to_onnx
from bitwright.export.onnx.float32 import Float32Graph, add_in_float32
from bitwright.export.onnx.float_network import add_float, clamped, float_constant
from bitwright.export.onnx.graph import OnnxGraph, convolution_attributes, window
from bitwright.export.onnx.qlinear import add_qlinear, qlinear_rescale
from bitwright.export.onnx.split import LayerPart
from bitwright.export.onnx.sums import add_sums, add_sums_in_float32, takes_float32
from bitwright.export.openvino.builder import OpenvinoBuilder, Value
from bitwright.export.openvino.exporter import add_to_openvino
from bitwright.export.openvino.sums import layer_sums
from bitwright.graph.evaluate import Tensors, folded_weight
from bitwright.graph.nodes import Conv2d, Linear
from bitwright.integer.convolution import as_convolution
from bitwright.integer.ops import IntegerConv2d, IntegerLayer


@add_float.register
def _(node: Conv2d, made: OnnxGraph, parameters: Tensors) -> None:
    operands = _operands(node, made, parameters)
    kernel = tuple(parameters[node.weight].shape[2:])
    attributes = {**window(kernel, node.stride, node.padding, node.dilation), "group": node.groups}
    clamped(made, node.name, node.bounds, lambda name: made.node("Conv", operands, name, **attributes))


@add_float.register
def _(node: Linear, made: OnnxGraph, parameters: Tensors) -> None:
    if len(node.shape) != 1:
        raise ExportError(f"expected a linear layer on vectors, got one on {node.shape} at '{node.name}'.")
    operands = _operands(node, made, parameters)
    clamped(made, node.name, node.bounds, lambda name: made.node("Gemm", operands, name, transB=1))


def _operands(node: Conv2d | Linear, made: OnnxGraph, parameters: Tensors) -> list[str]:
    """What the layer reads, its folded weight, and its bias if it has one."""
    weight, bias = folded_weight(node, parameters)
    operands = [node.inputs[0], float_constant(made, f"{node.name}.weight", weight)]
    return operands if bias is None else [*operands, float_constant(made, f"{node.name}.bias", bias)]


@add_to_onnx.register
def _(op: IntegerLayer, builder: OnnxBuilder) -> None:
    rescale, (source,) = qlinear_rescale(op, builder), op.inputs
    convolution = as_convolution(op)
    attributes = convolution_attributes(convolution)
    if rescale is None and convolution is op and takes_float32(op, builder):
        add_sums_in_float32(op, builder, attributes)
    elif rescale is None and convolution is op:
        weight = builder.weight(op, op.weight, unsigned=True)
        add_sums(op, builder, "ConvInteger", weight, op.bias.reshape(-1, 1, 1), op.rescale, attributes)
    elif rescale is None:
        weight = builder.weight(op, np.ascontiguousarray(op.weight.T))
        add_sums(op, builder, "MatMulInteger", weight, op.bias, op.rescale, {})
    elif convolution is op:
        add_qlinear(op, rescale, builder, source, builder.weight(op, op.weight), op.bias, attributes)
    else:
        # QLinearConv has scales per channel and a bias, which QLinearMatMul lacks.
        outputs, inputs = op.weight.shape
        image = builder.node("Reshape", [source, builder.integers(-1, inputs, 1, 1)], f"{op.name}.image")
        weight, pixel = builder.weight(op, convolution.weight), f"{op.name}.pixel"
        add_qlinear(op, rescale, builder, image, weight, op.bias, attributes, pixel)
        builder.node("Reshape", [pixel, builder.integers(-1, outputs)], op.name)


@add_in_float32.register(IntegerLayer)
def _(op: IntegerLayer, builder: Float32Graph) -> None:
    split = builder.splits.get(op.name)
    if split is None:
        _add_layer(op, LayerPart(op.weight, op.bias, op.weight_bits), op.name, builder.accumulator(op), builder)
    else:
        high, low = (
            _add_layer(op, part, name, f"{name}.accumulator", builder)
            for part, name in ((split.high, f"{op.name}.high"), (split.low, f"{op.name}.low"))
        )
        builder.joined(high, low, split.shift, op)
    builder.requantize(op)


def _add_layer(op: IntegerLayer, part: LayerPart, name: str, output: str, builder: Float32Graph) -> str:
    """A layer with these weights and this bias."""
    bias = part.bias.astype(np.float32)
    if isinstance(op, IntegerConv2d):
        operation, values = "Conv", part.weight
        attributes = convolution_attributes(op)
    else:
        operation, values, attributes = "MatMul", np.ascontiguousarray(part.weight.T), {}
    operands = [op.inputs[0], builder.weight(name, values, part.bits)]
    if operation == "Conv" and builder.bias_in_convolution:
        return builder.node(operation, [*operands, builder.constant(f"{name}.bias", bias)], output, **attributes)
    sums = builder.node(operation, operands, f"{name}.sums", **attributes)
    columns = bias if operation == "MatMul" else bias.reshape(-1, 1, 1)
    return builder.node("Add", [sums, builder.constant(f"{name}.bias", columns)], output)


@add_to_openvino.register
def _(op: IntegerLayer, builder: OpenvinoBuilder) -> Value:
    image = builder.rescaled(op, layer_sums(op, builder))
    return image if len(op.shape) == 3 else builder.ops.reshape(image, builder.integers(-1, *op.shape), False)


@add_to_litert.register
def _(op: IntegerLayer, builder: LitertBuilder) -> None:
    add_convolution(op, op.rescale, builder)
