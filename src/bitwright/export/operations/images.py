# SPDX-License-Identifier: MIT
"""Images to integers in every engine; LiteRT reads them in a layout of its own (`litert.images`)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from bitwright.errors import ExportError
from bitwright.export.onnx.builder import OnnxBuilder
from bitwright.export.onnx.exporter import add_to_onnx
from bitwright.export.onnx.float32 import Float32Graph, add_in_float32
from bitwright.export.onnx.float_network import add_float
from bitwright.export.onnx.graph import OnnxGraph
from bitwright.export.openvino.builder import OpenvinoBuilder, Value
from bitwright.export.openvino.exporter import add_to_openvino
from bitwright.export.pixels import affine, quotient_below
from bitwright.graph.evaluate import Tensors
from bitwright.graph.nodes import Input
from bitwright.integer.ops import Quantize, ReciprocalQuantize


@add_float.register
def _(node: Input, made: OnnxGraph, parameters: Tensors) -> None:
    made.node("Identity", ["images"], node.name)


@add_to_onnx.register(Quantize)
@add_to_onnx.register(ReciprocalQuantize)
def _(op: Quantize | ReciprocalQuantize, builder: OnnxBuilder) -> None:
    if builder.pixels is None:
        if isinstance(op, ReciprocalQuantize):
            reciprocal = builder.scalar(float(np.float32(1) / np.float32(op.scale)))
            real = builder.node("Mul", ["images", reciprocal], f"{op.name}.real")
        elif builder.exceeds_byte(op.name):
            real = builder.node("Div", ["images", builder.scalar(op.scale)], f"{op.name}.real")
        else:
            builder.quantized("images", op.scale, op.name, op.low, op.high)
            return
        builder.rounded(real, op.name, op.low, op.high)
        return
    table = builder.pixels.table(op)
    exact = affine(table, op.low, op.high)
    if exact is None:
        _look_up(op, builder, table)
        return
    builder.node("Cast", ["images"], f"{op.name}.pixels", to=TensorProto.FLOAT)
    gain = builder.constant(f"{op.name}.gain", exact.gain.reshape(-1, 1, 1))
    offset = builder.constant(f"{op.name}.offset", exact.offset.reshape(-1, 1, 1))
    builder.node("Mul", [f"{op.name}.pixels", gain], f"{op.name}.scaled")
    builder.rounded(builder.node("Add", [f"{op.name}.scaled", offset], f"{op.name}.real"), op.name, op.low, op.high)


def _look_up(op: Quantize | ReciprocalQuantize, builder: OnnxBuilder, table: npt.NDArray[np.int32]) -> None:
    """The tables of all channels behind one another; channel c looks from 256 c on."""
    channels, levels = table.shape
    stored = builder.stored(table, op.name).reshape(-1)
    first = (np.arange(channels, dtype=np.int32) * levels).reshape(-1, 1, 1)
    builder.node("Cast", ["images"], f"{op.name}.int32", to=TensorProto.INT32)
    places = [f"{op.name}.int32", builder.constant(f"{op.name}.first", first)]
    builder.node("Add", places, f"{op.name}.place")
    builder.node("Gather", [builder.constant(f"{op.name}.table", stored), f"{op.name}.place"], op.name)


@add_in_float32.register
def _(op: Quantize, builder: Float32Graph) -> None:
    if builder.pixels is None:
        real = builder.node("Div", [builder.images, builder.scalar(op.scale)], f"{op.name}.real")
        builder.rounded(real, op.name, op.low, op.high)
        return
    exact = affine(builder.pixels.table(op), op.low, op.high)
    if exact is None:
        raise ExportError(f"'{op.name}': no gain and offset give the integers of all pixels; export without pixels.")
    scaled = builder.scaled(builder.images, exact.gain.reshape(-1, 1, 1), f"{op.name}.scaled")
    offset = builder.constant(f"{op.name}.offset", exact.offset.reshape(-1, 1, 1))
    builder.rounded(builder.node("Add", [scaled, offset], f"{op.name}.real"), op.name, op.low, op.high)


@add_to_openvino.register(Quantize)
@add_to_openvino.register(ReciprocalQuantize)
def _(op: Quantize | ReciprocalQuantize, builder: OpenvinoBuilder) -> Value:
    ops, images = builder.ops, builder.values["images"]
    if builder.pixels is None:
        below, rises = quotient_below(op)
        scaled = ops.multiply(images, builder.floats(below.gain))
        integers = builder.rounded(ops.add(scaled, builder.floats(below.offset)), op.low, op.high)
        place = ops.convert(ops.add(integers, builder.floats(-op.low)), "i32")
        rise = ops.gather(builder.floats(rises), place, ops.constant(np.int64(0)))
        return ops.add(integers, ops.convert(ops.greater_equal(images, rise), "f32"))
    table = builder.pixels.table(op)
    exact = affine(table, op.low, op.high)
    if exact is None:
        # The tables of all channels behind one another; channel c looks from 256 c on.
        first = (np.arange(table.shape[0], dtype=np.int32) * table.shape[1]).reshape(-1, 1, 1)
        places = ops.add(ops.convert(images, "i32"), ops.constant(first))
        return ops.gather(builder.floats(table.reshape(-1)), places, ops.constant(np.int64(0)))
    scaled = ops.multiply(ops.convert(images, "f32"), builder.floats(exact.gain.reshape(-1, 1, 1)))
    return builder.rounded(ops.add(scaled, builder.floats(exact.offset.reshape(-1, 1, 1))), op.low, op.high)
