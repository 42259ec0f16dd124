# SPDX-License-Identifier: MIT
"""Convolutions in a LiteRT file, matrix products and sums over windows among them.

XNNPACK's 8-bit kernels add in int32, multiply the sum by `input scale * weight scale / output scale` in float32, and round once,
halves to even: the formula of the certificate, with the proved multiplier as the scale of the weights and 1 for all others.

Where a result has more than 8 bits, or a multiplier more than 24, the sums are float32 convolutions of integers: exact while all
partial sums stay within 2**24. Longer ones are cut into such parts, which are added as int32. Weights are stored as int8 all the
same, and made float32 when the file is loaded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import ExportError
from bitwright.export.litert.builder import Held, LitertBuilder
from bitwright.export.litert.int64 import in_int64
from bitwright.export.litert.real import cast, combined, real_of
from bitwright.export.litert.rescaling import rescale
from bitwright.graph.nodes import Node
from bitwright.integer.convolution import as_convolution
from bitwright.integer.ops import IntegerAvgPool2d, IntegerConv2d, IntegerLayer, Rescale
from bitwright.integer.proof.bounds import FLOAT32_EXACT, exact_parts, largest_sum
from bitwright.integer.quant_params import QuantParams

LEAST_RATIO, MOST_RATIO = 2.0**-32, 255.0


def add_convolution(
    op: IntegerLayer | IntegerAvgPool2d, requantization: Rescale | None, builder: LitertBuilder
) -> None:
    """The tensor of a layer or a mean: on 8-bit kernels where all is bytes, else from sums in float32 or int32."""
    layer = as_convolution(op)
    in_bytes = builder.held[op.inputs[0]].kind == "INT8"
    if (
        requantization is not None
        and in_bytes
        and not in_int64(op, requantization, builder)
        and not builder.exceeds_byte(op.name)
    ):
        add_in_int8(op, requantization, layer, builder)
        return
    sums = sums_of(op, layer, builder)
    if requantization is None:
        builder.held[op.name] = sums
    else:
        rescale(op, requantization, builder, sums)


def add_in_int8(op: Node, rescale: Rescale, layer: IntegerConv2d, builder: LitertBuilder) -> None:
    """The tensor `op.name`, of at most 8 bits, from one of at most 8 bits."""
    ratio = np.broadcast_to(within_xnnpack(rescale.multipliers.as_float32()), len(layer.bias))
    operands = [
        _image(builder.held[layer.inputs[0]], layer, builder).tensor,
        builder.constant(_in_order(layer, layer.weight), scale=ratio, axis=3 if _is_depthwise(layer) else 0),
        builder.constant(layer.bias.astype(np.int32), scale=ratio),
    ]

    def convolve(output: int, activation: int) -> None:
        if len(op.shape) == len(layer.shape):
            _convolve(operands, output, layer, builder, activation)
            return
        column = builder.like(builder.held[op.name], builder.nhwc(layer.shape))
        _convolve(operands, column, layer, builder, activation)
        builder.reshape(column, output, [-1, *op.shape])

    builder.saturated(op.name, op.shape, rescale.low, rescale.high, convolve)


def within_xnnpack(ratio: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Ratios of 8-bit results as XNNPACK takes them, from 2**-32 to 256; others are replaced, which changes no result.

    Below 2**-32, every int32 accumulator gives at most a half, hence 0, and so it does at 2**-32. Above 255, all but 0 is beyond
    255 in magnitude, where every 8-bit result is clamped, and so it is at 255.

    >>> within_xnnpack(np.array([1e-12, 0.5, 1e6], dtype=np.float32)).tolist()
    [2.3283064365386963e-10, 0.5, 255.0]
    """
    return np.clip(ratio, np.float32(LEAST_RATIO), np.float32(MOST_RATIO))


def sums_of(op: Node, layer: IntegerConv2d, builder: LitertBuilder) -> Held:
    """The accumulators, bias included, in the shape of `op`: FLOAT32 where one convolution holds them, else INT32.

    Raises:
        ExportError: If a sum over a window of one channel can exceed 2**24 even with weights of one.
    """
    params = builder.model.formats[layer.inputs[0]]
    image = _image(Held(real_of(layer.inputs[0], builder), "FLOAT32"), layer, builder)
    if largest_sum(layer.weight, layer.bias, params) <= FLOAT32_EXACT:
        sums = Held(_in_float32(image.tensor, layer, layer.weight, layer.bias, builder), "FLOAT32")
    else:
        total = builder.constant(layer.bias.astype(np.int32))
        for start, stop, weight in _parts(op, layer, layer.weight, params):
            part = image.tensor
            if stop - start < layer.weight.shape[1]:
                limits = [builder.integers(0, 0, 0, start), builder.integers(-1, -1, -1, stop - start)]
                sizes = [
                    -1,
                    *(
                        size + 2 * pad
                        for size, pad in zip(_image_shape(layer, builder)[1:], layer.padding, strict=True)
                    ),
                ]
                part = builder.node(
                    "SLICE", [part, *limits], builder.tensor([*sizes, stop - start], "FLOAT32"), "SliceOptions"
                )
            real = _in_float32(part, layer, weight, np.zeros_like(layer.bias), builder)
            terms = [cast(builder, real, layer.shape, "INT32"), total]
            total = combined(builder, layer.shape, "ADD", terms, kind="INT32")
        sums = Held(total, "INT32")
    if len(op.shape) == len(layer.shape):
        return sums
    return sums._replace(tensor=builder.reshape(sums.tensor, builder.like(sums, [-1, *op.shape]), [-1, *op.shape]))


def _parts(
    op: Node, layer: IntegerConv2d, weight: npt.NDArray[np.int8], params: QuantParams
) -> list[tuple[int, int, npt.NDArray[np.int8]]]:
    """Runs of input channels, and weights over them whose partial sums stay within 2**24; all parts together are `weight`.

    Channels are cut first, which costs no further products; where one channel or a group is too long, its weights are halved.
    """
    runs = exact_parts(weight, np.zeros_like(layer.bias), params, whole=layer.groups > 1)
    if runs is not None:
        return [(start, stop, weight[:, start:stop]) for start, stop in runs]
    half = weight >> 1
    if not half.any():
        raise ExportError(f"LiteRT sums '{op.name}' in float32, which holds 2**24, but a window of it can be larger.")
    return [part for piece in (half, weight - half) for part in _parts(op, layer, piece, params)]


def _in_float32(
    image: int, layer: IntegerConv2d, weight: npt.NDArray[np.int8], bias: npt.NDArray[np.int32], builder: LitertBuilder
) -> int:
    """A float32 convolution of integers."""
    stored = _in_order(layer, weight)
    weights = builder.node(
        "DEQUANTIZE", [builder.constant(stored, scale=1.0)], builder.tensor(stored.shape, "FLOAT32"),
        "DequantizeOptions", 2,
    )  # fmt: skip
    output = builder.tensor(builder.nhwc(layer.shape), "FLOAT32")
    return _convolve([image, weights, builder.floats(bias)], output, layer, builder)


def _is_depthwise(layer: IntegerConv2d) -> bool:
    """Whether each channel is read alone, by as many outputs as LiteRT's depth multiplier says."""
    return layer.groups > 1 and layer.weight.shape[1] == 1


def _in_order(layer: IntegerConv2d, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Weights as LiteRT wants them: channels last, and those of a depthwise convolution behind one another."""
    if _is_depthwise(layer):
        return np.ascontiguousarray(weight.transpose(1, 2, 3, 0))
    return np.ascontiguousarray(weight.transpose(0, 2, 3, 1))


def _image_shape(layer: IntegerConv2d, builder: LitertBuilder) -> tuple[int, ...]:
    """What a convolution reads, features as an image of one pixel."""
    return (*builder.shape(layer.inputs[0]), 1, 1)[:3]


def _image(source: Held, layer: IntegerConv2d, builder: LitertBuilder) -> Held:
    """What a convolution reads, which never pads by itself."""
    shape = _image_shape(layer, builder)
    if len(builder.shape(layer.inputs[0])) < len(shape):
        sizes = builder.nhwc(shape)
        source = source._replace(tensor=builder.reshape(source.tensor, builder.like(source, sizes), sizes))
    return builder.padded(source, shape, layer.padding, layer.padding)


def _convolve(
    operands: list[int], output: int, layer: IntegerConv2d, builder: LitertBuilder, activation: int = 0
) -> int:
    options: dict[str, Any] = {
        "padding": builder.schema.Padding.VALID,
        "strideH": layer.stride[0], "strideW": layer.stride[1],
        "dilationHFactor": layer.dilation[0], "dilationWFactor": layer.dilation[1],
        "fusedActivationFunction": activation,
    }  # fmt: skip
    if not _is_depthwise(layer):
        return builder.node("CONV_2D", operands, output, "Conv2DOptions", 3, **options)
    options["depthMultiplier"] = layer.shape[0] // layer.groups
    return builder.node("DEPTHWISE_CONV_2D", operands, output, "DepthwiseConv2DOptions", 3, **options)
