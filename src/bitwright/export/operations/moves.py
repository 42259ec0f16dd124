# SPDX-License-Identifier: MIT
"""What only moves integers, in every engine: flatten, concatenations, slices, shuffles, padding, pixels out of channels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from bitwright.errors import ExportError
from bitwright.export.litert.builder import INT8_MAX, Held, LitertBuilder
from bitwright.export.litert.exporter import add_to_litert
from bitwright.export.litert.real import whole_of
from bitwright.export.onnx.builder import OnnxBuilder
from bitwright.export.onnx.exporter import add_to_onnx
from bitwright.export.onnx.float32 import Float32Graph, add_in_float32
from bitwright.export.onnx.float64 import select_in_floats
from bitwright.export.onnx.float_network import add_float
from bitwright.export.onnx.graph import OnnxGraph, move_in_onnx
from bitwright.export.openvino.builder import OpenvinoBuilder, Value
from bitwright.export.openvino.exporter import add_to_openvino
from bitwright.graph.evaluate import Tensors
from bitwright.graph.nodes import (
    ChannelShuffle,
    Concat,
    DepthToSpace,
    Dropout,
    Flatten,
    Pad,
    Rearrange,
    Selection,
    Slice,
    Take,
)


@add_float.register
def _(node: Selection | Concat, made: OnnxGraph, parameters: Tensors) -> None:
    move_in_onnx(node, made)


@add_float.register
def _(node: Dropout, made: OnnxGraph, parameters: Tensors) -> None:
    made.node("Identity", [node.inputs[0]], node.name)


@add_to_onnx.register
def _(op: Selection | Concat, builder: OnnxBuilder) -> None:
    move_in_onnx(op, builder)


@add_in_float32.register
def _(op: Selection | Concat, builder: Float32Graph) -> None:
    builder.move(op)


@move_in_onnx.register
def _(op: Concat, graph: OnnxGraph) -> None:
    graph.node("Concat", list(op.inputs), op.name, axis=1)


@add_to_openvino.register
def _(op: Concat, builder: OpenvinoBuilder) -> Value:
    return builder.ops.concat([builder.values[name] for name in op.inputs], 1)


@add_to_litert.register
def _(op: Concat, builder: LitertBuilder) -> None:
    sources = [builder.held[name] for name in op.inputs]
    first, kinds = sources[0], {source.kind for source in sources}
    if kinds == {"INT8"} and any(source.zero_point != first.zero_point for source in sources):
        # At this zero point, every clamp within the format that they share has its place.
        zero_point = INT8_MAX - builder.model.formats[op.name].quant_max
        moved = zip(sources, op.inputs, strict=True)
        sources = [builder.moved(source, builder.shape(name), zero_point) for source, name in moved]
    elif len(kinds) > 1:
        sources = [Held(whole_of(name, builder), "INT32") for name in op.inputs]
    output = builder.hold(op.name, op.shape, sources[0].kind, sources[0].zero_point)
    builder.node(
        "CONCATENATION", [source.tensor for source in sources], output, "ConcatenationOptions", 2, axis=len(op.shape)
    )


@move_in_onnx.register
def _(op: Flatten, graph: OnnxGraph) -> None:
    graph.node("Flatten", [op.inputs[0]], op.name, axis=1)


@add_to_openvino.register
def _(op: Flatten, builder: OpenvinoBuilder) -> Value:
    return builder.ops.reshape(builder.values[op.inputs[0]], builder.integers(-1, prod(op.shape)), False)


@add_to_litert.register
def _(op: Flatten, builder: LitertBuilder) -> None:
    (name,) = op.inputs
    source, shape = builder.held[name], builder.shape(name)
    values = source.tensor
    if prod(shape[1:]) > 1:  # channels first, as training flattens images
        order = builder.integers(0, 3, 1, 2)
        values = builder.node("TRANSPOSE", [values, order], builder.like(source, [-1, *shape]), "TransposeOptions", 2)
    builder.reshape(values, builder.hold(op.name, op.shape, source.kind, source.zero_point), [-1, *op.shape])


@move_in_onnx.register
def _(op: Slice, graph: OnnxGraph) -> None:
    limits = [graph.integers(op.start), graph.integers(op.stop), graph.integers(1)]
    graph.node("Slice", [op.inputs[0], *limits], op.name)


@add_to_openvino.register
def _(op: Slice, builder: OpenvinoBuilder) -> Value:
    limits = [builder.integers(number) for number in (op.start, op.stop, 1, 1)]
    return builder.ops.slice(builder.values[op.inputs[0]], *limits)


@add_to_litert.register
def _(op: Slice, builder: LitertBuilder) -> None:
    source = builder.held[op.inputs[0]]
    last = len(op.shape) - 1
    begin = builder.integers(*[0] * (last + 1), op.start)
    size = builder.integers(*[-1] * (last + 1), op.stop - op.start)
    output = builder.hold(op.name, op.shape, source.kind, source.zero_point)
    builder.node("SLICE", [source.tensor, begin, size], output, "SliceOptions", 2)


@move_in_onnx.register
def _(op: ChannelShuffle, graph: OnnxGraph) -> None:
    channels, height, width = op.shape
    groups = graph.integers(-1, op.groups, channels // op.groups, height, width)
    merged = graph.integers(-1, channels, height, width)
    graph.node("Reshape", [op.inputs[0], groups], f"{op.name}.groups")
    graph.node("Transpose", [f"{op.name}.groups"], f"{op.name}.transposed", perm=[0, 2, 1, 3, 4])
    graph.node("Reshape", [f"{op.name}.transposed", merged], op.name)


@add_to_openvino.register
def _(op: ChannelShuffle, builder: OpenvinoBuilder) -> Value:
    return builder.ops.shuffle_channels(builder.values[op.inputs[0]], 1, op.groups)


@add_to_litert.register
def _(op: ChannelShuffle, builder: LitertBuilder) -> None:
    source = builder.held[op.inputs[0]]
    channels, height, width = op.shape
    sizes = [-1, height, width, op.groups, channels // op.groups]
    grouped = builder.reshape(source.tensor, builder.like(source, sizes), sizes)
    swapped = builder.like(source, [*sizes[:3], sizes[4], sizes[3]])
    builder.node("TRANSPOSE", [grouped, builder.integers(0, 1, 2, 4, 3)], swapped, "TransposeOptions", 2)
    output = builder.hold(op.name, op.shape, source.kind, source.zero_point)
    builder.reshape(swapped, output, [-1, height, width, channels])


@move_in_onnx.register
def _(op: Take, graph: OnnxGraph) -> None:
    if op.slice is None:
        graph.node("Gather", [op.inputs[0], graph.integers(*op.places)], op.name, axis=op.axis)
        return
    start, stop, step = op.slice
    limits = [graph.integers(number) for number in (start, stop, op.axis, step)]
    graph.node("Slice", [op.inputs[0], *limits], op.name)


@add_to_openvino.register
def _(op: Take, builder: OpenvinoBuilder) -> Value:
    values = builder.values[op.inputs[0]]
    if op.slice is None:
        return builder.ops.gather(values, builder.integers(*op.places), builder.ops.constant(np.int64(op.axis)))
    start, stop, step = op.slice
    return builder.ops.slice(values, *(builder.integers(number) for number in (start, stop, step, op.axis)))


@add_to_litert.register
def _(op: Take, builder: LitertBuilder) -> None:
    source = builder.held[op.inputs[0]]
    output = builder.hold(op.name, op.shape, source.kind, source.zero_point)
    rank = len(op.shape) + 1
    axis = rank - 1 if op.axis == 1 else op.axis - 1  # channels last
    if op.slice is None:
        places = builder.integers(*op.places)
        builder.node("GATHER", [source.tensor, places], output, "GatherOptions", 2, axis=axis, batchDims=0)
        return
    limits = [builder.integers(*[0] * axis, number, *[0] * (rank - 1 - axis)) for number in op.slice[:2]]
    steps = builder.integers(*[1] * axis, op.slice[2], *[1] * (rank - 1 - axis))
    whole = (1 << rank) - 1 - (1 << axis)  # all of the other axes
    builder.node(
        "STRIDED_SLICE",
        [source.tensor, *limits, steps],
        output,
        "StridedSliceOptions",
        2,
        beginMask=whole,
        endMask=whole,
    )


add_to_onnx.register(Pad, select_in_floats)


@move_in_onnx.register
def _(op: Pad, graph: OnnxGraph) -> None:
    (source,) = op.inputs
    zero = graph.stored_zero(source)
    around = graph.integers(0, *op.before, 0, *op.after)
    graph.node("Pad", [source, around, *([zero] if zero else [])], op.name)


@add_to_openvino.register
def _(op: Pad, builder: OpenvinoBuilder) -> Value:
    around = [builder.integers(0, *sizes) for sizes in (op.before, op.after)]
    return builder.ops.pad(builder.values[op.inputs[0]], *around, "constant", builder.ops.constant(np.float32(0)))


@add_to_litert.register
def _(op: Pad, builder: LitertBuilder) -> None:
    source = builder.held[op.inputs[0]]
    output = builder.hold(op.name, op.shape, source.kind, source.zero_point)
    channels, *pixels = zip(op.before, op.after, strict=True)
    around = builder.constant(np.array([(0, 0), *pixels, channels], dtype=np.int32))
    builder.node("PAD", [source.tensor, around], output, "PadOptions", 2)  # with the zero point of int8


add_to_onnx.register(DepthToSpace, select_in_floats)


@move_in_onnx.register
def _(op: DepthToSpace, graph: OnnxGraph) -> None:
    graph.node("DepthToSpace", [op.inputs[0]], op.name, blocksize=op.block, mode="DCR")


@add_to_openvino.register
def _(op: DepthToSpace, builder: OpenvinoBuilder) -> Value:
    return builder.ops.depth_to_space(builder.values[op.inputs[0]], "blocks_first", op.block)


@add_to_litert.register
def _(op: DepthToSpace, builder: LitertBuilder) -> None:
    source = builder.held[op.inputs[0]]
    output = builder.hold(op.name, op.shape, source.kind, source.zero_point)
    builder.node("DEPTH_TO_SPACE", [source.tensor], output, "DepthToSpaceOptions", blockSize=op.block)


@move_in_onnx.register
def _(op: Rearrange, graph: OnnxGraph) -> None:
    parts, merged = graph.integers(-1, *op.parts), graph.integers(-1, *op.shape)
    if len(op.order) == 1:
        graph.node("Reshape", [op.inputs[0], merged], op.name)
        return
    graph.node("Reshape", [op.inputs[0], parts], f"{op.name}.parts")
    graph.node("Transpose", [f"{op.name}.parts"], f"{op.name}.ordered", perm=_with_batch(op.order))
    graph.node("Reshape", [f"{op.name}.ordered", merged], op.name)


@add_to_openvino.register
def _(op: Rearrange, builder: OpenvinoBuilder) -> Value:
    parts = builder.ops.reshape(builder.values[op.inputs[0]], builder.integers(-1, *op.parts), False)
    ordered = builder.ops.transpose(parts, builder.integers(*_with_batch(op.order)))
    return builder.ops.reshape(ordered, builder.integers(-1, *op.shape), False)


@add_to_litert.register
def _(op: Rearrange, builder: LitertBuilder) -> None:
    """The parts are those of an image with its channels first, as it is for the operation alone."""
    (name,) = op.inputs
    source, shape = builder.held[name], builder.shape(name)
    if len(op.parts) >= _LITERT_RANK:
        raise ExportError(
            f"'{op.name}' moves {len(op.parts)} axes at once; LiteRT transposes {_LITERT_RANK} with the batch."
        )

    def transposed(values: int, sizes: Sequence[int], order: Sequence[int]) -> int:
        made = builder.like(source, [-1, *(sizes[place] for place in order)])
        axes = builder.integers(*_with_batch(order))
        return builder.node("TRANSPOSE", [values, axes], made, "TransposeOptions", 2)

    values = source.tensor
    if prod(shape[1:]) > 1:
        values = transposed(values, [*shape[1:], shape[0]], (2, 0, 1))
    if len(op.order) > 1:
        values = builder.reshape(values, builder.like(source, [-1, *op.parts]), [-1, *op.parts])
        values = transposed(values, op.parts, op.order)
    if len(op.shape) == 3 and prod(op.shape[1:]) > 1:
        values = builder.reshape(values, builder.like(source, [-1, *op.shape]), [-1, *op.shape])
        output = builder.hold(op.name, op.shape, source.kind, source.zero_point)
        builder.node("TRANSPOSE", [values, builder.integers(0, 2, 3, 1)], output, "TransposeOptions", 2)
        return
    output = builder.hold(op.name, op.shape, source.kind, source.zero_point)
    builder.reshape(values, output, builder.nhwc(op.shape))


_LITERT_RANK = 6


def _with_batch(order: Sequence[int]) -> list[int]:
    """An order of axes behind that of the batch."""
    return [0, *(place + 1 for place in order)]
