# SPDX-License-Identifier: MIT
"""The LiteRT form of operations that only select or move integers: their results keep scale and zero point."""

from __future__ import annotations

from functools import singledispatch
from math import prod
from typing import Any

from bitwright.errors import ExportError
from bitwright.export.litert_builder import INT8_MIN, LitertBuilder
from bitwright.export.litert_wide import pool_wide
from bitwright.graph.nodes import ChannelShuffle, Concat, Flatten, MaxPool2d, Node, Slice


@singledispatch
def move_in_litert(op: Node, builder: LitertBuilder) -> None:
    """Add the LiteRT form of one operation."""
    raise ExportError(f"no LiteRT form of {type(op).__name__} ('{op.name}').")


@move_in_litert.register
def _(op: MaxPool2d, builder: LitertBuilder) -> None:
    if op.dilation != (1, 1):
        raise ExportError(f"LiteRT has no max pooling with dilation ('{op.name}').")
    shape = builder.shape(op.inputs[0])
    # As much after the image as the last window reaches, which is more where sizes are rounded up.
    after = [
        max(0, (out - 1) * step + kernel - size - before)
        for out, step, kernel, size, before in zip(
            op.shape[1:], op.stride, op.kernel, shape[1:], op.padding, strict=True
        )
    ]
    if op.inputs[0] in builder.numbers:
        pool_wide(op, builder, (after[0], after[1]))
        return
    source = builder.narrow(op.inputs[0])
    image = builder.padded(source, shape, op.padding, (after[0], after[1]), None if source.low == 0 else INT8_MIN)
    builder.node(
        "MAX_POOL_2D", [image], builder.kept(op.name, op.shape, source), "Pool2DOptions", 2,
        padding=builder.schema.Padding.VALID, strideH=op.stride[0], strideW=op.stride[1],
        filterHeight=op.kernel[0], filterWidth=op.kernel[1],
    )  # fmt: skip


@move_in_litert.register
def _(op: Concat, builder: LitertBuilder) -> None:
    sources = [builder.narrow(name) for name in op.inputs]
    first = sources[0]
    if any(source[1:] != first[1:] for source in sources):
        raise ExportError(f"LiteRT cannot concatenate tensors of different clamps exactly ('{op.name}').")
    output = builder.kept(op.name, op.shape, first)
    builder.node(
        "CONCATENATION", [source.tensor for source in sources], output, "ConcatenationOptions", 2, axis=len(op.shape)
    )


@move_in_litert.register
def _(op: Flatten, builder: LitertBuilder) -> None:
    (name,) = op.inputs
    shape = builder.shape(name)
    if name in builder.numbers:
        builder.numbers[op.name] = _flat(
            builder, builder.numbers[name], shape, builder.tensor([-1, prod(shape)], "INT32")
        )
        return
    source = builder.narrow(name)
    quantization: dict[str, Any] = {"scale": source.scale, "zero_point": source.zero_point}
    _flat(builder, source.tensor, shape, builder.kept(op.name, op.shape, source), **quantization)


def _flat(builder: LitertBuilder, values: int, shape: tuple[int, ...], output: int, **quantization: Any) -> int:
    """Channels first, as training flattens images."""
    if prod(shape[1:]) > 1:
        first = builder.tensor([-1, *shape], "INT8" if quantization else "INT32", **quantization)
        values = builder.node("TRANSPOSE", [values, builder.integers(0, 3, 1, 2)], first, "TransposeOptions", 2)
    return builder.reshape(values, output, [-1, prod(shape)])


@move_in_litert.register
def _(op: Slice, builder: LitertBuilder) -> None:
    source = builder.narrow(op.inputs[0])
    last = len(op.shape) - 1
    begin = builder.integers(*[0] * (last + 1), op.start)
    size = builder.integers(*[-1] * (last + 1), op.stop - op.start)
    builder.node("SLICE", [source.tensor, begin, size], builder.kept(op.name, op.shape, source), "SliceOptions", 2)


@move_in_litert.register
def _(op: ChannelShuffle, builder: LitertBuilder) -> None:
    source = builder.narrow(op.inputs[0])
    channels, height, width = op.shape
    sizes = [-1, height, width, op.groups, channels // op.groups]
    quantization: dict[str, Any] = {"scale": source.scale, "zero_point": source.zero_point}
    grouped = builder.reshape(source.tensor, builder.tensor(sizes, "INT8", **quantization), sizes)
    swapped = builder.tensor([*sizes[:3], sizes[4], sizes[3]], "INT8", **quantization)
    builder.node("TRANSPOSE", [grouped, builder.integers(0, 1, 2, 4, 3)], swapped, "TransposeOptions", 2)
    builder.reshape(swapped, builder.kept(op.name, op.shape, source), [-1, height, width, channels])
