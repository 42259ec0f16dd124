# SPDX-License-Identifier: MIT
"""IntegerModel to LiteRT: a .tflite file whose integers XNNPACK, the interpreter's default on CPUs, computes exactly.

XNNPACK's 8-bit convolutions add in int32, on every CPU, multiply the sum by `input scale * weight scale / output scale` in
float32 and round once, halves to even: the formula that the certificate is about, with the proved multiplier as the scale of
the weights and powers of two for all others. What its integer kernels would round in another way (additions, rescaling, the
quantization of images) is done in float32 on integers, exactly, and average pools are depthwise convolutions with weights of
one. The classifier is a float32 convolution of integers, in parts where a sum could exceed 2**24. The published models' streams
and 31-bit multipliers are int32 and int64 (`litert_wide`), where float32 multipliers do not give the same integers.

The reference kernels of LiteRT round twice and differ; the file is for the interpreter as it is, with its default delegate.
"""

from __future__ import annotations

from functools import singledispatch
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import ExportError
from bitwright.export.conditions import conditions, for_float32
from bitwright.export.litert_builder import LitertBuilder, Stored
from bitwright.export.litert_moves import move_in_litert
from bitwright.export.litert_real import cast, combined, dequantized, integers_of, store_rounded
from bitwright.export.litert_wide import (
    add_wide,
    floor_average,
    in_int64,
    is_wide,
    numbers_of,
    rescale_in_int64,
    rescale_stream,
)
from bitwright.export.pixels import Pixels, affine, quotient_rises
from bitwright.export.seal import write_sealed
from bitwright.export.target import Target
from bitwright.graph.nodes import Node, Pair
from bitwright.integer.bounds import FLOAT32_EXACT
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import (
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerFloorAvgPool2d,
    IntegerLinear,
    IntegerRequantize,
    Quantize,
    ReciprocalQuantize,
    Rescale,
)


def export_litert(
    model: IntegerModel, path: str | Path, target: Target | str = Target.ANY, pixels: Pixels | None = None
) -> bytes:
    """Write `model` for LiteRT, atomically.

    The graph takes `images` (batch x channels x height x width) and returns `logits_int32` (the integers of the model) and
    `logits` (float32, the integers times the unit of each class).

    Args:
        model: What to export.
        path: Of the file.
        target: The same for all: XNNPACK's kernels saturate on no CPU.
        pixels: How images were normalised in training: the file then takes uint8 pixels; without, normalised float32 images.

    Raises:
        ExportError: If ai-edge-litert is not installed, or an operation cannot be exact.
    """
    made = to_litert(model, pixels)
    write_sealed(path, made)
    return made


def to_litert(model: IntegerModel, pixels: Pixels | None = None) -> bytes:
    """`model` as the bytes of a .tflite file; see `export_litert`."""
    builder = LitertBuilder(for_float32(model), pixels)
    images = builder.tensor([-1, *model.input_shape], "FLOAT32" if pixels is None else "UINT8", "images")
    for op in builder.model:
        if isinstance(op, Quantize | ReciprocalQuantize):
            _quantize(op, builder, images)
        else:
            add_to_litert(op, builder)
    shape = builder.shape(model.output)
    whole = builder.numbers.get(model.output)
    if whole is None:
        whole = cast(builder, integers_of(model.output, shape, builder), shape, "INT32")
    if len(shape) == 3:
        whole = builder.node(
            "TRANSPOSE",
            [whole, builder.integers(0, 3, 1, 2)],
            builder.tensor([-1, *shape], "INT32"),
            "TransposeOptions",
        )
    named = builder.tensor([-1, *shape], "INT32", "logits_int32")
    builder.reshape(whole, named, [-1, *shape])
    kinds = builder.schema.TensorType
    real = builder.node(
        "CAST",
        [named],
        builder.tensor([-1, *shape], "FLOAT32"),
        "CastOptions",
        inDataType=kinds.INT32,
        outDataType=kinds.FLOAT32,
    )
    unit = builder.floats(np.array(model.output_unit).reshape(-1, *[1] * (len(shape) - 1)))
    logits = builder.node("MUL", [real, unit], builder.tensor([-1, *shape], "FLOAT32", "logits"), "MulOptions")
    facts = conditions(model, Target.ANY, pixels)
    facts["engine"] = "the interpreter with its default delegate, XNNPACK; the reference kernels round otherwise"
    return builder.finish([images], [named, logits], facts)


def _quantize(op: Quantize | ReciprocalQuantize, builder: LitertBuilder, images: int) -> None:
    """Images are read in the layout of training, and go on with the channels last."""
    order = builder.integers(0, 2, 3, 1)
    kind = "FLOAT32" if builder.pixels is None else "UINT8"
    last = builder.node("TRANSPOSE", [images, order], builder.tensor(builder.nhwc(op.shape), kind), "TransposeOptions")
    gain: Any = np.float32(1.0)
    offset: Any = np.float32(op.low)
    if builder.pixels is None:
        # XNNPACK multiplies by the inverse of the scale. What a quotient rounds to is how many rises lie at or below it.
        rises = builder.tensor(builder.nhwc(op.shape), "INT32")
        builder.node("BUCKETIZE", [last], rises, "BucketizeOptions", boundaries=quotient_rises(op).tolist())
        real = cast(builder, rises, op.shape, "FLOAT32", "INT32")
    else:
        exact = affine(builder.pixels.table(op), op.low, op.high)
        if exact is None:
            raise ExportError(
                f"'{op.name}': no gain and offset give the integers of all pixels; export without pixels."
            )
        real = cast(builder, last, op.shape, "FLOAT32", "UINT8")
        gain, offset = exact.gain, exact.offset

    def make(scale: float, activation: int) -> int:
        product = combined(builder, op.shape, "MUL", [real, builder.floats(gain * np.float32(scale))])
        return combined(builder, op.shape, "ADD", [product, builder.floats(offset * np.float32(scale))], activation)

    store_rounded(op, builder, op.low, op.high, make)


@singledispatch
def add_to_litert(op: Node, builder: LitertBuilder) -> None:
    """Add the LiteRT form of one operation."""
    move_in_litert(op, builder)


@add_to_litert.register
def _(op: IntegerConv2d, builder: LitertBuilder) -> None:
    source = builder.narrow(op.inputs[0])
    shape = builder.shape(op.inputs[0])
    if op.groups == 1:
        operator, weight = "CONV_2D", op.weight.transpose(0, 2, 3, 1)
    elif op.groups == shape[0]:
        operator, weight = "DEPTHWISE_CONV_2D", op.weight.transpose(1, 2, 3, 0)
    else:
        raise ExportError(f"XNNPACK has no exact convolution of {op.groups} groups of channels ('{op.name}').")
    if op.rescale is None or in_int64(op, op.rescale, builder):
        padded = source._replace(tensor=builder.padded(source, shape, op.padding, op.padding))
        wide = (shape[0], shape[1] + 2 * op.padding[0], shape[2] + 2 * op.padding[1])
        sums = _raw(op, builder, padded, wide, operator, weight, op.bias, op.stride, op.dilation)
        _finish(op, op.rescale, builder, sums)
        return
    image = builder.padded(source, shape, op.padding, op.padding)
    _convolution(op, op.rescale, builder, source, image, operator, weight, op.bias, op.stride, op.dilation)


@add_to_litert.register
def _(op: IntegerLinear, builder: LitertBuilder) -> None:
    source = builder.narrow(op.inputs[0])
    outputs, inputs = op.weight.shape
    image = builder.tensor([-1, 1, 1, inputs], "INT8", scale=source.scale, zero_point=source.zero_point)
    builder.reshape(source.tensor, image, [-1, 1, 1, inputs])
    weight = op.weight.reshape(outputs, 1, 1, inputs)
    if op.rescale is None or in_int64(op, op.rescale, builder):
        column = _raw(op, builder, source._replace(tensor=image), (inputs, 1, 1), "CONV_2D", weight, op.bias)
        flat = builder.tensor([-1, outputs], "INT32")
        _finish(op, op.rescale, builder, builder.reshape(column, flat, [-1, outputs]))
        return
    column_op = _as_image(op, outputs)
    _convolution(column_op, op.rescale, builder, source, image, "CONV_2D", weight, op.bias)
    made = builder.stored[column_op.name]
    builder.reshape(made.tensor, builder.kept(op.name, op.shape, made), [-1, outputs])


def _finish(op: Node, rescale: Rescale | None, builder: LitertBuilder, sums: int) -> None:
    """Accumulators leave the network, or are requantized by multipliers that float32 does not hold."""
    if rescale is None:
        builder.numbers[op.name] = sums
    else:
        rescale_in_int64(op, rescale, builder, sums)


def _as_image(op: Node, channels: int) -> Node:
    """The same result as an image of one pixel."""
    return Node(name=f"{op.name}.column", inputs=op.inputs, shape=(channels, 1, 1))


@add_to_litert.register
def _(op: IntegerAvgPool2d, builder: LitertBuilder) -> None:
    source = builder.narrow(op.inputs[0])
    channels, height, width = builder.shape(op.inputs[0])
    ones = np.ones((1, *op.kernel, channels), dtype=np.int8)
    bias = np.zeros(channels, dtype=np.int32)
    image = builder.padded(source, (channels, height, width), op.padding, op.padding)
    if op.rescale is None or in_int64(op, op.rescale, builder):
        wide = (channels, height + 2 * op.padding[0], width + 2 * op.padding[1])
        padded = source._replace(tensor=image)
        _finish(op, op.rescale, builder, _raw(op, builder, padded, wide, "DEPTHWISE_CONV_2D", ones, bias, op.stride))
    else:
        _convolution(op, op.rescale, builder, source, image, "DEPTHWISE_CONV_2D", ones, bias, op.stride)


def _options(builder: LitertBuilder, operator: str, stride: Pair, dilation: Pair, activation: int) -> dict[str, Any]:
    """What a convolution states; it never pads."""
    found = {
        "padding": builder.schema.Padding.VALID,
        "strideH": stride[0], "strideW": stride[1], "dilationHFactor": dilation[0], "dilationWFactor": dilation[1],
        "fusedActivationFunction": activation,
    }  # fmt: skip
    if operator == "CONV_2D":
        return {"options": "Conv2DOptions", "version": 3, **found}
    return {"options": "DepthwiseConv2DOptions", "version": 3, "depthMultiplier": 1, **found}


def _convolution(
    op: Node,
    rescale: Rescale,
    builder: LitertBuilder,
    source: Stored,
    image: int,
    operator: str,
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    stride: Pair = (1, 1),
    dilation: Pair = (1, 1),
) -> None:
    """Accumulators, requantized: the multipliers are the scales of the weights, times powers of two."""
    multiplier = builder.multiplier(op, rescale, len(bias))
    stored, activation = builder.store(op.name, op.shape, rescale.low, rescale.high)
    scale = multiplier * np.float32(stored.scale / source.scale)
    axis = 0 if operator == "CONV_2D" else 3
    operands = [
        image,
        builder.constant(np.ascontiguousarray(weight), scale=scale, axis=axis),
        builder.constant(bias.astype(np.int32), scale=scale * np.float32(source.scale)),
    ]
    builder.node(operator, operands, stored.tensor, **_options(builder, operator, stride, dilation, activation))


def _raw(
    op: Node,
    builder: LitertBuilder,
    source: Stored,
    shape: tuple[int, ...],
    operator: str,
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    stride: Pair = (1, 1),
    dilation: Pair = (1, 1),
) -> int:
    """Accumulators as int32: float32 sums over as many input channels as float32 can hold, added."""
    params = builder.model.formats[op.inputs[0]]
    largest = max(params.quant_max, -params.quant_min)
    magnitudes = np.abs(weight.astype(np.int64)) * largest
    channels = shape[0]
    depthwise = operator != "CONV_2D"
    size = channels
    while True:
        starts = (0,) if depthwise else range(0, channels, size)
        axes = (0, 1, 2) if depthwise else (1, 2, 3)
        if max(magnitudes[..., at : at + size].sum(axes).max() for at in starts) <= FLOAT32_EXACT:
            break
        if depthwise or size == 1:
            raise ExportError(
                f"LiteRT sums '{op.name}' in float32, which holds 2**24, but its sums can be larger. "
                "Lower its weight or activation bits."
            )
        size = ceil(size / 2)
    real = dequantized(source, shape, builder)
    if source.scale != 1:
        real = combined(builder, shape, "MUL", [real, builder.floats(1 / source.scale)])
    result_shape = op.shape if len(op.shape) == 3 else (*op.shape, 1, 1)
    options = _options(builder, operator, stride, dilation, 0)
    total = builder.constant(bias.astype(np.int32))
    for at in range(0, channels, size):
        part, weights = real, weight
        if size < channels:
            count = min(size, channels - at)
            sliced = builder.tensor(builder.nhwc((count, *shape[1:])), "FLOAT32")
            limits = [builder.integers(0, 0, 0, at), builder.integers(-1, -1, -1, count)]
            part, weights = builder.node("SLICE", [real, *limits], sliced, "SliceOptions"), weight[..., at : at + size]
        operands = [part, builder.floats(weights), builder.floats(np.zeros(len(bias)))]
        sums = builder.node(operator, operands, builder.tensor(builder.nhwc(result_shape), "FLOAT32"), **options)
        terms = [cast(builder, sums, result_shape, "INT32"), total]
        total = builder.node("ADD", terms, builder.tensor(builder.nhwc(result_shape), "INT32"), "AddOptions")
    return total


@add_to_litert.register
def _(op: IntegerAdd, builder: LitertBuilder) -> None:
    if any(is_wide(name, builder) for name in (*op.inputs, op.name)):
        add_wide(op, builder)
        return

    def make(scale: float, activation: int) -> int:
        terms = []
        for name, multiplier in zip(op.inputs, op.multipliers, strict=True):
            source = builder.narrow(name)
            factor = builder.floats(multiplier / 2**op.shift / source.scale * scale)
            terms.append(combined(builder, op.shape, "MUL", [dequantized(source, op.shape, builder), factor]))
        return combined(builder, op.shape, "ADD", terms, activation)

    store_rounded(op, builder, op.low, op.high, make)


@add_to_litert.register
def _(op: IntegerRequantize, builder: LitertBuilder) -> None:
    if in_int64(op, op.rescale, builder):
        rescale_in_int64(op, op.rescale, builder, numbers_of(op.inputs[0], builder))
        return
    multiplier = builder.multiplier(op, op.rescale, 1)[0]
    if op.inputs[0] in builder.numbers:
        rescale_stream(op, op.rescale, builder, builder.numbers[op.inputs[0]], multiplier)
        return
    source = builder.narrow(op.inputs[0])

    def make(scale: float, activation: int) -> int:
        factor = builder.floats(multiplier * np.float32(scale / source.scale))
        return combined(builder, op.shape, "MUL", [dequantized(source, op.shape, builder), factor], activation)

    store_rounded(op, builder, op.rescale.low, op.rescale.high, make)


add_to_litert.register(IntegerFloorAvgPool2d, floor_average)
