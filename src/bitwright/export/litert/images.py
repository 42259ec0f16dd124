# SPDX-License-Identifier: MIT
"""Images to integers in a LiteRT file: read in the layout of training, channels last from there on.

XNNPACK divides float32 numbers truly, element by element, so that a quotient by the scale is rounded as in the model; a
quantization to that scale would multiply by its inverse, which is rounded elsewhere. Quantized to the scale 1, the quotient is
only rounded to an integer, halves to even, and clamped.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitwright.export.litert.builder import INT8_MAX, LitertBuilder
from bitwright.export.litert.real import cast, combined, store_rounded
from bitwright.export.pixels import Pixels, affine
from bitwright.integer.ops import Quantize, ReciprocalQuantize


def quantize_images(op: Quantize | ReciprocalQuantize, builder: LitertBuilder, images: int) -> None:
    """The first tensor of the model, from the file's input: float32 images, or uint8 pixels."""
    kind = "FLOAT32" if builder.pixels is None else "UINT8"
    order, last = builder.integers(0, 2, 3, 1), builder.tensor(builder.nhwc(op.shape), kind)
    builder.node("TRANSPOSE", [images, order], last, "TransposeOptions")
    if builder.pixels is None:
        _divide(op, builder, last)
    else:
        _normalise(op, builder, last, builder.pixels)


def _divide(op: Quantize | ReciprocalQuantize, builder: LitertBuilder, images: int) -> None:
    scale = np.float32(op.scale)
    operator, factor = ("MUL", 1 / scale) if isinstance(op, ReciprocalQuantize) else ("DIV", scale)

    def make(activation: int) -> int:
        return combined(builder, op.shape, operator, [images, builder.floats(factor)], activation)

    store_rounded(op, builder, op.low, op.high, make)


def _normalise(op: Quantize | ReciprocalQuantize, builder: LitertBuilder, images: int, pixels: Pixels) -> None:
    """A gain and an offset for each channel, where such give the integers of all pixels; else the table of these."""
    table = pixels.table(op)
    exact = affine(table, op.low, op.high)
    if exact is None:
        _look_up(op, builder, images, table)
        return
    gain, offset = builder.floats(exact.gain), builder.floats(exact.offset)
    real = cast(builder, images, op.shape, "FLOAT32", "UINT8")

    def make(activation: int) -> int:
        return combined(
            builder, op.shape, "ADD", [combined(builder, op.shape, "MUL", [real, gain]), offset], activation
        )

    store_rounded(op, builder, op.low, op.high, make)


def _look_up(
    op: Quantize | ReciprocalQuantize, builder: LitertBuilder, images: int, table: npt.NDArray[np.int32]
) -> None:
    """The tables of all channels behind one another; channel c looks from 256 c on."""
    channels, levels = table.shape
    first = builder.constant(np.arange(channels, dtype=np.int32) * levels)
    whole = cast(builder, images, op.shape, "INT32", "UINT8")
    places = combined(builder, op.shape, "ADD", [whole, first], kind="INT32")
    kind, zero_point = ("FLOAT32", 0) if builder.exceeds_byte(op.name) else ("INT8", INT8_MAX - op.high)
    output = builder.hold(op.name, op.shape, kind, zero_point)
    values = builder.constant_of(builder.held[op.name], table.reshape(-1))
    builder.node("GATHER", [values, places], output, "GatherOptions", 2)
