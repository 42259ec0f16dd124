# SPDX-License-Identifier: MIT
"""Layers that end in int32 sums: the logits, and what is rescaled to more than 8 bits. ConvInteger or MatMulInteger, then float.

MLAS, which multiplies for ONNX Runtime, takes the weights of ConvInteger for the unsigned factor of its dot products: it has such
kernels for uint8 weights and int8 images, and none for uint8 images. So images are made signed, once for each tensor: 128 is
added modulo 256, which flips the highest bit (ONNX Runtime adds bytes four times as fast as it flips bits), and read as a signed
byte, that is 128 less. So is the zero point. Bytes below 128, of formats of up to 7 bits, are their own signed ones.

    sum over (w + z)(x - 128), less what the zero points add        is the sum over w times the integers of x, in int32

Where a CPU lacks 8-bit dot products, those kernels add two products in 16 bits. With a and b the two largest stored weights of a
channel, and images from l to h, such a sum lies between (a + b) * l and (a + b) * h. It fits if that is within int16: always for
weights of 4 bits. Other layers keep unsigned images, which all CPUs multiply in 16 bits and add in 32, unless the target has dot
products. The zero point of the weights is the smallest that makes them unsigned, so that a + b is as small as can be.

The sums leave as `fl(fl(sum) * scale)` by DequantizeLinear, which on int32 computes just this: the formula of the certificate.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from bitwright.export.conditions import require_float32_mean
from bitwright.export.onnx.builder import OnnxBuilder, Unrounded, Weight, unsigned_zero, zero_point
from bitwright.export.onnx.float64 import rescale_in_float64
from bitwright.export.target import Target
from bitwright.graph.nodes import Node
from bitwright.integer.ops import IntegerAvgPool2d, IntegerConv2d, Rescale
from bitwright.integer.proof.bounds import FLOAT32_EXACT, largest_sum
from bitwright.integer.proof.float32_multipliers import in_float32

INT16_MIN, INT16_MAX = -(2**15), 2**15 - 1
_HALF = 128
_FEW = 4


class Image(NamedTuple):
    """What a layer multiplies: the name of the bytes, and of their zero point."""

    values: str
    zero: str


def add_sums(
    op: Node,
    builder: OnnxBuilder,
    operation: str,
    weight: Weight,
    bias: npt.NDArray[np.int32] | None,
    rescale: Rescale | None,
    attributes: dict[str, Any],
) -> None:
    """Accumulators: they leave the network as they are, or are requantized to a tensor of 16 bits.

    Args:
        op: The layer or pooling.
        builder: The graph.
        operation: `ConvInteger` or `MatMulInteger`.
        weight: Its second operand.
        bias: In a shape that broadcasts along the channels, or None.
        rescale: None for accumulators that leave the network.
        attributes: The attributes of the operator.
    """
    image = _image(op, builder)
    operands = [image.values, weight.values, image.zero, weight.zero]
    result = op.name if rescale is None else f"{op.name}.accumulator"
    if bias is None:
        builder.node(operation, operands, result, **attributes)
    else:
        sums = builder.node(operation, operands, f"{op.name}.sums", **attributes)
        builder.node("Add", [sums, builder.constant(f"{op.name}.bias", bias)], result)
    _rescaled(op, rescale, builder, result)


def _rescaled(op: Node, rescale: Rescale | None, builder: OnnxBuilder, accumulator: str) -> None:
    """int32 accumulators as the tensor of `op`, unless they leave the network."""
    if rescale is None:
        return
    if needs_float64(op, rescale, builder):
        rescale_in_float64(op, rescale, builder, accumulator)
        return
    scale = rescale.multipliers.as_float32()
    multiplier = builder.constant(f"{op.name}.multiplier", scale if scale.size > 1 else scale.reshape(()))
    real = builder.node("DequantizeLinear", [accumulator, multiplier], f"{op.name}.real", axis=1)
    if builder.is_pooled(op.name):
        builder.unrounded[op.name] = Unrounded(real, "", rescale.low, rescale.high)
    else:
        builder.rounded(real, op.name, rescale.low, rescale.high)


def add_average_in_float32(
    op: IntegerAvgPool2d, builder: OnnxBuilder, convolution: IntegerConv2d, attributes: dict[str, Any]
) -> None:
    """Sums over a tensor of 16 bits: a float32 convolution with ones, exact while no sum exceeds 2**24."""
    require_float32_mean(op, builder.model.formats[op.inputs[0]])
    weight = builder.constant(f"{op.name}.ones", convolution.weight.astype(np.float32))
    image = builder.cast(op.inputs[0], TensorProto.FLOAT)
    sums = builder.node("Conv", [image, weight], f"{op.name}.sums", **attributes)
    # A multiplication behind constant weights would be folded into them, which rounds every product.
    result = op.name if op.rescale is None else f"{op.name}.accumulator"
    builder.node("Cast", [sums], result, to=TensorProto.INT32)
    _rescaled(op, op.rescale, builder, result)


def takes_float32(op: IntegerConv2d, builder: OnnxBuilder) -> bool:
    """Whether a float32 convolution is the faster way to exact sums: over images of few channels, of 16 bits behind a max pool.

    To gather the rows for matrix products of bytes takes longer than to multiply them there, and a max pool reads the layout of
    float32 convolutions. It also keeps the multiplier from the weights, into which ONNX Runtime would fold it.
    """
    rescale, (source,) = op.rescale, op.inputs
    return (
        builder.target is Target.VNNI
        and rescale is not None
        and op.weight.shape[1] <= _FEW
        and builder.is_pooled(op.name)
        and not needs_float64(op, rescale, builder)
        and largest_sum(op.weight, op.bias, builder.model.formats[source]) <= FLOAT32_EXACT
    )


def add_sums_in_float32(op: IntegerConv2d, builder: OnnxBuilder, attributes: dict[str, Any]) -> None:
    """The sums of a layer that `takes_float32`, which the max pool behind it multiplies and rounds."""
    assert op.rescale is not None
    stored = builder.constant(f"{op.name}.weight", op.weight)
    operands = [
        builder.cast(op.inputs[0], TensorProto.FLOAT),
        builder.node("Cast", [stored], f"{op.name}.weight.float", to=TensorProto.FLOAT),
        builder.constant(f"{op.name}.bias", op.bias.astype(np.float32)),
    ]
    sums = builder.node("Conv", operands, f"{op.name}.sums", **attributes)
    scale = np.broadcast_to(op.rescale.multipliers.as_float32(), len(op.bias)).reshape(-1, 1, 1)
    multiplier = builder.constant(f"{op.name}.multiplier", np.ascontiguousarray(scale))
    builder.unrounded[op.name] = Unrounded(sums, multiplier, op.rescale.low, op.rescale.high)


def needs_float64(op: Node, rescale: Rescale, builder: OnnxBuilder) -> bool:
    """Whether float32 lacks the multipliers, or holds not all results."""
    return not in_float32(rescale) or builder.element_type(op.name) == TensorProto.DOUBLE


def signed_limits(builder: OnnxBuilder, source: str) -> tuple[int, int]:
    """The least and the greatest signed byte that stands for an integer of `source`."""
    span = builder.model.formats[source].quant_max - builder.model.formats[source].quant_min
    return (0, span) if span < _HALF else (-_HALF, span - _HALF)


def signed_pairs_fit(op: IntegerConv2d, low: int, high: int) -> bool:
    """Whether no two products of stored weights and signed bytes in [low, high] leave int16.

    Padding counts: it is the zero point, which lies between.
    """
    rows = np.sort(op.weight.reshape(len(op.weight), -1).astype(np.int64) + unsigned_zero(op), axis=1)
    largest = int(rows[:, -2:].sum(1).max())
    return largest * low >= INT16_MIN and largest * high <= INT16_MAX


def _image(op: Node, builder: OnnxBuilder) -> Image:
    """The bytes that `op` reads: signed ones where the kernels for these are exact."""
    (source,) = op.inputs
    unsigned = Image(source, builder.zero(source))
    if not isinstance(op, IntegerConv2d):
        return unsigned
    low, high = signed_limits(builder, source)
    if builder.target is not Target.VNNI and not signed_pairs_fit(op, low, high):
        return unsigned
    name = f"{source}.int8"
    if name not in builder.casts:
        builder.casts.add(name)
        if low:
            half = builder.constant(f"uint8.{_HALF}", np.array(_HALF, dtype=np.uint8))
            source = builder.node("Add", [source, half], f"{source}.flipped")
        builder.node("Cast", [source], name, to=TensorProto.INT8)
    point = zero_point(builder.model.formats[op.inputs[0]]) + low
    return Image(name, builder.constant(f"zero.int8.{point}", np.array(point, dtype=np.int8)))
