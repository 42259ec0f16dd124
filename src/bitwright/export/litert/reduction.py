# SPDX-License-Identifier: MIT
"""Means over whole images in a LiteRT file: float32 sums of integers, exact in any order while they stay within 2**24.

XNNPACK's depthwise kernels, which add smaller windows, take a hundred times as long for those: 11.9 ms for 28 x 28 pixels of 120
channels, where the sum takes 0.1. Its sum of bytes does not round as the model does.
"""

from __future__ import annotations

from bitwright.export.litert.builder import Held, LitertBuilder
from bitwright.export.litert.real import real_of
from bitwright.export.litert.rescaling import rescale
from bitwright.integer.ops import IntegerAvgPool2d
from bitwright.integer.proof.bounds import FLOAT32_EXACT
from bitwright.quantizer.sums import magnitude, window_sums


def is_reduction(op: IntegerAvgPool2d, builder: LitertBuilder) -> bool:
    """Whether the one window of `op` is the image, and float32 holds its sums."""
    (source,) = op.inputs
    largest = magnitude(window_sums(op.kernel, builder.model.formats[source].ends))
    return builder.shape(source)[1:] == op.kernel and not any(op.padding) and largest <= FLOAT32_EXACT


def add_reduction(op: IntegerAvgPool2d, builder: LitertBuilder) -> None:
    """The tensor of a mean over whole images."""
    operands = [real_of(op.inputs[0], builder), builder.integers(1, 2)]
    output = builder.tensor(builder.nhwc(op.shape), "FLOAT32")
    sums = Held(builder.node("SUM", operands, output, "ReducerOptions", keepDims=True), "FLOAT32")
    if op.rescale is None:
        builder.held[op.name] = sums
    else:
        rescale(op, op.rescale, builder, sums)
