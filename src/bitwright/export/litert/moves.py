# SPDX-License-Identifier: MIT
"""The LiteRT form of operations that only select or move integers: their results keep kind and zero point."""

from __future__ import annotations

from functools import reduce, singledispatch
from math import prod

import numpy as np

from bitwright.errors import ExportError
from bitwright.export.litert.builder import INT8_MAX, Held, LitertBuilder
from bitwright.export.litert.real import real_of, whole_of
from bitwright.graph.nodes import ChannelShuffle, Concat, DepthToSpace, Flatten, MaxPool2d, Node, Pad, Slice, Take
from bitwright.integer.proof.bounds import FLOAT32_EXACT


@singledispatch
def move_in_litert(op: Node, builder: LitertBuilder) -> None:
    """Add the LiteRT form of one operation."""
    raise ExportError(f"no LiteRT form of {type(op).__name__} ('{op.name}').")


@move_in_litert.register
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
    # As much after the image as the last window reaches, which is more where sizes are rounded up.
    after = [
        max(0, (out - 1) * step + (kernel - 1) * gap + 1 - size - before)
        for out, step, kernel, gap, size, before in zip(
            op.shape[1:], op.stride, op.kernel, op.dilation, shape[1:], op.padding, strict=True
        )
    ]
    # Every window holds a pixel of the image, so that padding only must not exceed all of them.
    least = builder.ranges[name][0]
    image = builder.padded(source, shape, op.padding, (after[0], after[1]), least or None)
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


@move_in_litert.register
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


@move_in_litert.register
def _(op: Flatten, builder: LitertBuilder) -> None:
    (name,) = op.inputs
    source, shape = builder.held[name], builder.shape(name)
    values = source.tensor
    if prod(shape[1:]) > 1:  # channels first, as training flattens images
        order = builder.integers(0, 3, 1, 2)
        values = builder.node("TRANSPOSE", [values, order], builder.like(source, [-1, *shape]), "TransposeOptions", 2)
    builder.reshape(values, builder.hold(op.name, op.shape, source.kind, source.zero_point), [-1, *op.shape])


@move_in_litert.register
def _(op: Slice, builder: LitertBuilder) -> None:
    source = builder.held[op.inputs[0]]
    last = len(op.shape) - 1
    begin = builder.integers(*[0] * (last + 1), op.start)
    size = builder.integers(*[-1] * (last + 1), op.stop - op.start)
    output = builder.hold(op.name, op.shape, source.kind, source.zero_point)
    builder.node("SLICE", [source.tensor, begin, size], output, "SliceOptions", 2)


@move_in_litert.register
def _(op: ChannelShuffle, builder: LitertBuilder) -> None:
    source = builder.held[op.inputs[0]]
    channels, height, width = op.shape
    sizes = [-1, height, width, op.groups, channels // op.groups]
    grouped = builder.reshape(source.tensor, builder.like(source, sizes), sizes)
    swapped = builder.like(source, [*sizes[:3], sizes[4], sizes[3]])
    builder.node("TRANSPOSE", [grouped, builder.integers(0, 1, 2, 4, 3)], swapped, "TransposeOptions", 2)
    output = builder.hold(op.name, op.shape, source.kind, source.zero_point)
    builder.reshape(swapped, output, [-1, height, width, channels])


@move_in_litert.register
def _(op: Take, builder: LitertBuilder) -> None:
    source = builder.held[op.inputs[0]]
    output = builder.hold(op.name, op.shape, source.kind, source.zero_point)
    rank = len(op.shape) + 1
    axis = rank - 1 if op.axis == 1 else op.axis - 1  # channels last
    if op.run is None:
        places = builder.integers(*op.places)
        builder.node("GATHER", [source.tensor, places], output, "GatherOptions", 2, axis=axis, batchDims=0)
        return
    limits = [builder.integers(*[0] * axis, number, *[0] * (rank - 1 - axis)) for number in op.run[:2]]
    steps = builder.integers(*[1] * axis, op.run[2], *[1] * (rank - 1 - axis))
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


@move_in_litert.register
def _(op: Pad, builder: LitertBuilder) -> None:
    source = builder.held[op.inputs[0]]
    output = builder.hold(op.name, op.shape, source.kind, source.zero_point)
    channels, *pixels = zip(op.before, op.after, strict=True)
    around = builder.constant(np.array([(0, 0), *pixels, channels], dtype=np.int32))
    builder.node("PAD", [source.tensor, around], output, "PadOptions", 2)  # with the zero point of int8


@move_in_litert.register
def _(op: DepthToSpace, builder: LitertBuilder) -> None:
    source = builder.held[op.inputs[0]]
    output = builder.hold(op.name, op.shape, source.kind, source.zero_point)
    builder.node("DEPTH_TO_SPACE", [source.tensor], output, "DepthToSpaceOptions", blockSize=op.block)
