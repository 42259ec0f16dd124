# SPDX-License-Identifier: MIT
"""Maxima over windows in every engine."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

from bitwright.errors import ExportError
from bitwright.export.litert.builder import Held, LitertBuilder
from bitwright.export.litert.exporter import add_to_litert
from bitwright.export.litert.real import real_of
from bitwright.export.onnx.builder import OnnxBuilder
from bitwright.export.onnx.exporter import add_to_onnx
from bitwright.export.onnx.float64 import select_in_floats
from bitwright.export.onnx.graph import OnnxGraph, may_end_behind, move_in_onnx, window
from bitwright.export.openvino.builder import OpenvinoBuilder, Value
from bitwright.export.openvino.exporter import add_to_openvino
from bitwright.graph.nodes import MaxPool2d, Pair
from bitwright.integer.proof.bounds import FLOAT32_EXACT


@add_to_onnx.register
def _(op: MaxPool2d, builder: OnnxBuilder) -> None:
    found = builder.unrounded.get(op.inputs[0])
    if found is None:
        select_in_floats(op, builder)
        return
    # What a layer is multiplied and rounded by never decreases, so that the maximum may come before: of fewer numbers to round.
    real = f"{op.name}.real"
    move_in_onnx(replace(op, name=f"{op.name}.sums" if found.multiplier else real, inputs=(found.real,)), builder)
    if found.multiplier:
        builder.node("Mul", [f"{op.name}.sums", found.multiplier], real)
    builder.rounded(real, op.name, found.low, found.high)


@move_in_onnx.register
def _(op: MaxPool2d, graph: OnnxGraph) -> None:
    attributes = window(op.kernel, op.stride, op.padding, op.dilation)
    if not may_end_behind(op):
        graph.node("MaxPool", [op.inputs[0]], op.name, **attributes, ceil_mode=int(op.ceil_mode))
        return
    # PyTorch and ONNX Runtime drop a last window that begins behind the image, ONNX's shape inference counts it.
    graph.node("MaxPool", [op.inputs[0]], f"{op.name}.every_window", **attributes, ceil_mode=1)
    limits = [graph.integers(0, 0), graph.integers(*op.shape[1:]), graph.integers(2, 3)]
    graph.node("Slice", [f"{op.name}.every_window", *limits], op.name)


@add_to_openvino.register
def _(op: MaxPool2d, builder: OpenvinoBuilder) -> Value:
    (source,) = op.inputs
    # Behind sizes that are rounded up, or a dilated pool, OpenVINO finds no bytes: it would multiply float32 numbers.
    in_bytes = op.dilation == (1, 1) and not {source, op.name}.isdisjoint(builder.stored_as_bytes)
    pooled = builder.ops.max_pool(
        builder.bytes_of(source) if in_bytes else builder.values[source],
        list(op.stride),
        list(op.dilation),
        list(op.padding),
        list(_behind(op, builder.model.shape(source))),
        list(op.kernel),
        "floor",
    ).output(0)
    return builder.from_bytes(op.name, pooled) if in_bytes else pooled


def _behind(op: MaxPool2d, shape: tuple[int, ...]) -> Pair:
    """How far the last windows reach behind an image of this shape, in rows and columns, where sizes may be rounded up."""
    rows, columns = (
        max(0, (out - 1) * step + (kernel - 1) * gap + 1 - size - before)
        for out, step, kernel, gap, size, before in zip(
            op.shape[1:], op.stride, op.kernel, op.dilation, shape[1:], op.padding, strict=True
        )
    )
    return rows, columns


@add_to_litert.register
def _(op: MaxPool2d, builder: LitertBuilder) -> None:
    (name,) = op.inputs
    if builder.reach(name) > FLOAT32_EXACT:
        raise ExportError(
            f"LiteRT takes maxima in float32, which holds 2**24, but '{name}' can reach {builder.reach(name)}. "
            "Use the engine onnx or tvm."
        )
    source, shape = builder.held[name], builder.shape(name)
    if source.kind == "INT32":
        source = Held(real_of(name, builder), "FLOAT32")
    # Every window holds a pixel of the image, so that padding only must not exceed all of them.
    least = builder.ranges[name][0]
    image = builder.padded(source, shape, op.padding, _behind(op, shape), least or None)
    if op.dilation == (1, 1):
        output = builder.hold(op.name, op.shape, source.kind, source.zero_point)
        builder.node(
            "MAX_POOL_2D", [image.tensor], output, "Pool2DOptions", 2,
            padding=builder.schema.Padding.VALID, strideH=op.stride[0], strideW=op.stride[1],
            filterHeight=op.kernel[0], filterWidth=op.kernel[1],
        )  # fmt: skip
    else:
        builder.held[op.name] = image._replace(tensor=_dilated_maximum(op, image, builder))


def _dilated_maximum(op: MaxPool2d, image: Held, builder: LitertBuilder) -> int:
    """The maximum over the places of a window, each a strided slice of the image: LiteRT's pooling has no dilation."""
    sizes = builder.nhwc(op.shape)
    places = [
        builder.node(
            "STRIDED_SLICE",
            [
                image.tensor,
                builder.integers(0, top, left, 0),
                builder.integers(0, top + (op.shape[1] - 1) * op.stride[0] + 1, left + (op.shape[2] - 1) * op.stride[1] + 1, 0),
                builder.integers(1, *op.stride, 1),
            ],
            builder.like(image, sizes), "StridedSliceOptions", 2, beginMask=0b1001, endMask=0b1001,
        )
        for top in range(0, op.kernel[0] * op.dilation[0], op.dilation[0])
        for left in range(0, op.kernel[1] * op.dilation[1], op.dilation[1])
    ]  # fmt: skip
    return reduce(
        lambda one, other: builder.node(
            "MAXIMUM", [one, other], builder.like(image, sizes), "MaximumMinimumOptions", 2
        ),
        places,
    )
