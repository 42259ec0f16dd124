# SPDX-License-Identifier: MIT
"""Tables in every engine: the function in float32 where all results keep the margin, else their entries, looked up.

TVM looks all of them up, and ONNX Runtime makes tables of its own of some; elsewhere vectors of floats are many times faster than
loads from a table.
"""

from __future__ import annotations

import numpy as np
from onnx import TensorProto

from bitwright.export.litert.builder import LitertBuilder
from bitwright.export.litert.exporter import add_to_litert
from bitwright.export.litert.functions import add_branching, branches, function_in_litert, has_form
from bitwright.export.litert.real import cast, combined, real_of, store_rounded
from bitwright.export.onnx.builder import OnnxBuilder
from bitwright.export.onnx.exporter import add_to_onnx
from bitwright.export.onnx.float32 import Float32Graph, add_in_float32
from bitwright.export.onnx.float_network import add_float
from bitwright.export.onnx.functions import function_in_onnx, is_one_operator
from bitwright.export.onnx.graph import OnnxGraph
from bitwright.export.openvino.builder import OpenvinoBuilder, Value
from bitwright.export.openvino.exporter import add_to_openvino
from bitwright.export.openvino.functions import function_in_openvino
from bitwright.graph.evaluate import Tensors
from bitwright.graph.operations.table import Table
from bitwright.integer.operations.table import IntegerTable


@add_float.register
def _(node: Table, made: OnnxGraph, parameters: Tensors) -> None:
    function_in_onnx(node.program, node.inputs[0], node.name, made)


@add_to_onnx.register
def _(op: IntegerTable, builder: OnnxBuilder) -> None:
    (source,) = op.inputs
    params, result = builder.model.formats[source], builder.model.formats[op.name]
    if not op.computable:
        place = builder.node("Cast", [source], f"{op.name}.place", to=TensorProto.INT32)
        entries = builder.constant(f"{op.name}.entries", builder.stored(op.entries, op.name))
        builder.node("Gather", [entries, place], op.name)
        return
    if is_one_operator(op.program):
        real = builder.real(source, params.scale, f"{op.name}.x")
    else:
        # Of a scale, ONNX Runtime would make a copy for each reader.
        integers = builder.real(source, 1.0, f"{op.name}.integers")
        real = builder.node("Mul", [integers, builder.scalar(params.scale)], f"{op.name}.x")
    function_in_onnx(op.program, real, f"{op.name}.function", builder)
    builder.quantized(f"{op.name}.function", result.scale, op.name, result.quant_min, result.quant_max)


@add_in_float32.register
def _(op: IntegerTable, builder: Float32Graph) -> None:
    (source,) = op.inputs
    params, result = builder.model.formats[source], builder.model.formats[op.name]
    if op.computable:
        real = builder.real(source, params.scale, f"{op.name}.x")
        function_in_onnx(op.program, real, f"{op.name}.function", builder, later=False)
        real = builder.scaled(f"{op.name}.function", np.array(1 / result.scale, np.float32), f"{op.name}.real")
    else:
        stored = builder.node("Sub", [source, builder.scalar(params.quant_min)], f"{op.name}.stored")
        place = builder.node("Cast", [stored], f"{op.name}.place", to=TensorProto.INT64)
        entries = builder.constant(f"{op.name}.entries", op.entries.astype(np.float32))
        real = builder.node("Gather", [entries, place], f"{op.name}.real")
    builder.rounded(real, op.name, result.quant_min, result.quant_max)


@add_to_openvino.register
def _(op: IntegerTable, builder: OpenvinoBuilder) -> Value:
    (source,) = op.inputs
    ops, params, result = builder.ops, builder.model.formats[source], builder.model.formats[op.name]
    integers = builder.values[source]
    if not op.computable:
        place = ops.convert(ops.subtract(integers, builder.floats(params.quant_min)), "i32")
        return ops.gather(builder.floats(op.entries), place, ops.constant(np.int64(0)))
    real = function_in_openvino(op.program, ops.multiply(integers, builder.floats(params.scale)), builder)
    return builder.rounded(ops.multiply(real, builder.floats(1 / result.scale)), result.quant_min, result.quant_max)


@add_to_litert.register
def _(op: IntegerTable, builder: LitertBuilder) -> None:
    (source,) = op.inputs
    params, result = builder.model.formats[source], builder.model.formats[op.name]
    if op.computable and has_form(op.program) and branches(op.program):
        add_branching(op, builder, params, result)
        return
    integers = real_of(source, builder)

    def make(activation: int) -> int:
        if op.computable and has_form(op.program):
            x = combined(builder, op.shape, "MUL", [integers, builder.floats(params.scale)])
            real = function_in_litert(op.program, x, op.shape, builder)
            return combined(builder, op.shape, "MUL", [real, builder.floats(1 / result.scale)], activation)
        stored = combined(builder, op.shape, "ADD", [integers, builder.floats(-params.quant_min)])
        place = cast(builder, stored, op.shape, "INT32")
        entries = builder.floats(op.entries)
        found = builder.tensor(builder.nhwc(op.shape), "FLOAT32")
        real = builder.node("GATHER", [entries, place], found, "GatherOptions")
        return combined(builder, op.shape, "ADD", [real, builder.floats(0.0)], activation)

    store_rounded(op, builder, result.quant_min, result.quant_max, make)
