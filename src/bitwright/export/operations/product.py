# SPDX-License-Identifier: MIT
"""Products of two tensors in every engine.

With the margin that lowering leaves, `(a * b) * m` and `a * (b * m)` round alike in float32, whichever an engine makes of a file.
Results of more than 8 bits have no margin: for these, the exact a * b comes first.
"""

from __future__ import annotations

from bitwright.export.litert.builder import LitertBuilder
from bitwright.export.litert.exporter import add_to_litert
from bitwright.export.litert.real import combined, real_of, store_rounded
from bitwright.export.onnx.builder import OnnxBuilder
from bitwright.export.onnx.exporter import add_to_onnx
from bitwright.export.onnx.float32 import Float32Graph, add_in_float32
from bitwright.export.onnx.float_network import add_float, clamped
from bitwright.export.onnx.graph import OnnxGraph
from bitwright.export.onnx.scaled import ScalingBuilder
from bitwright.export.openvino.builder import OpenvinoBuilder, Value
from bitwright.export.openvino.exporter import add_to_openvino
from bitwright.graph.evaluate import Tensors
from bitwright.graph.operations.product import Product
from bitwright.integer.operations.product import IntegerProduct
from bitwright.integer.quant_params import QuantParams
from bitwright.scheme import MAX_BITS


@add_float.register
def _(node: Product, made: OnnxGraph, parameters: Tensors) -> None:
    clamped(made, node.name, node.bounds, lambda name: made.node("Mul", list(node.inputs), name))


@add_to_onnx.register
def _(op: IntegerProduct, builder: OnnxBuilder) -> None:
    _multiply(op, builder, builder.model.formats[op.name])


@add_in_float32.register
def _(op: IntegerProduct, builder: Float32Graph) -> None:
    _multiply(op, builder, builder.model.formats[op.name])


def _multiply(op: IntegerProduct, builder: ScalingBuilder, result: QuantParams) -> None:
    """ONNX Runtime makes one operator on bytes of it where there is a margin: for each operand, a scale of its own."""
    exceeds_byte = result.bit_width > MAX_BITS
    factors = (1.0, 1.0 if exceeds_byte else op.factor)
    terms = [
        builder.real(source, factor, f"{op.name}.factor{index}")
        for index, (source, factor) in enumerate(zip(op.inputs, factors, strict=True))
    ]
    real = builder.node("Mul", terms, f"{op.name}.product")
    if exceeds_byte:
        real = builder.node("Mul", [real, builder.scalar(op.factor)], f"{op.name}.real")
    builder.rounded(real, op.name, op.low, op.high)


@add_to_openvino.register
def _(op: IntegerProduct, builder: OpenvinoBuilder) -> Value:
    products = builder.ops.multiply(*(builder.values[name] for name in op.inputs))
    return builder.rounded(builder.ops.multiply(products, builder.floats(op.factor)), op.low, op.high)


@add_to_litert.register
def _(op: IntegerProduct, builder: LitertBuilder) -> None:
    terms = [real_of(name, builder) for name in op.inputs]

    def make(activation: int) -> int:
        products = combined(builder, op.shape, "MUL", terms)
        return combined(builder, op.shape, "MUL", [products, builder.floats(op.factor)], activation)

    store_rounded(op, builder, op.low, op.high, make)
