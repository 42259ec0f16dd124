# SPDX-License-Identifier: MIT
"""Sums of products in an OpenVINO file, on the kernel of each layer."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import numpy.typing as npt

from bitwright.errors import ExportError
from bitwright.export.openvino.builder import OpenvinoBuilder, Value
from bitwright.export.openvino.kernels import DOUBLED, INT8, PARTS
from bitwright.integer.convolution import as_convolution
from bitwright.integer.ops import IntegerConv2d, IntegerLayer
from bitwright.integer.proof.bounds import exact_parts, partial_sum_bound

Store = Callable[[npt.NDArray[np.int8]], Value]
"""Makes the operand of weights [outputs, inputs, height, width], or with a first axis of groups."""


def layer_sums(op: IntegerLayer, builder: OpenvinoBuilder) -> Value:
    """Accumulators of a layer as an image: float32, or int32 where they are added in parts.

    Matrix products are convolutions here: for those themselves, OpenVINO has kernels that quantize their inputs anew.
    """
    ops, convolution = builder.ops, as_convolution(op)
    kernel = builder.kernel(op)
    source = builder.bytes_of(op.inputs[0]) if kernel in (INT8, DOUBLED) else builder.values[op.inputs[0]]
    if convolution is not op:
        source = ops.reshape(source, builder.integers(-1, convolution.weight.shape[1], 1, 1), False)
    if kernel == DOUBLED:
        source = ops.concat([source, source], 1)
    if kernel == PARTS:
        return _sums_of_parts(convolution, builder, source)
    sums = products(convolution, builder, source, partial(builder.weight, op))
    return ops.add(sums, builder.floats(op.bias.reshape(1, -1, 1, 1)))


def products(
    op: IntegerConv2d,
    builder: OpenvinoBuilder,
    source: Value,
    store: Store,
    weight: npt.NDArray[np.int8] | None = None,
) -> Value:
    """Sums of products of a convolution, without its bias.

    Args:
        op: The convolution.
        builder: The graph.
        source: What it reads.
        store: Makes the operand of the weights.
        weight: Those over some of the inputs, where `source` is some of them.
    """
    weight = op.weight if weight is None else weight
    stride, behind = list(op.stride), list(op.padding)
    if op.shape[2] == 1 < op.stride[1]:
        weight, behind[1] = _across(op, weight, builder.model.shape(op.inputs[0])[2])
        stride[1] = 1
    window = [stride, list(op.padding), behind, list(op.dilation)]
    groups = op.groups
    if groups == 1:
        return builder.ops.convolution(source, store(weight), *window)
    repeats = len(weight) // groups
    if weight.shape[1] == 1 and repeats > 1:
        # A channel for each of its filters: then the kernels for depthwise convolutions do it, in less than half the time.
        source = builder.ops.shuffle_channels(builder.ops.concat([source] * repeats, 1), 1, repeats)
        groups = len(weight)
    return builder.ops.group_convolution(source, store(weight.reshape(groups, -1, *weight.shape[1:])), *window)


def _across(op: IntegerConv2d, weight: npt.NDArray[np.int8], width: int) -> tuple[npt.NDArray[np.int8], int]:
    """The kernel of a convolution whose result is one pixel wide, as one that reaches across the image, and what it needs behind.

    On CPUs with AVX-512, kernels of columns with strides read other pixels than those of their row. A column needs no stride,
    if its only window ends behind the image: for pixels that it does not read, it gets weights of zero.

    Args:
        op: The convolution.
        weight: Its weights, or those over some of the inputs.
        width: Of the image.

    Returns:
        Weights with enough columns, and the padding after the last pixel.
    """
    (_, before), (_, gap) = op.padding, op.dilation
    reach = gap * (weight.shape[3] - 1) + 1 - before
    columns = max(0, -((reach - width) // gap))
    return np.pad(weight, ((0, 0), (0, 0), (0, 0), (0, columns))), reach + gap * columns - width


def _sums_of_parts(op: IntegerConv2d, builder: OpenvinoBuilder, source: Value) -> Value:
    """Sums over few enough input channels each that float32 holds them, added as int32."""
    ops, channels = builder.ops, op.weight.shape[1]
    params = builder.model.formats[op.inputs[0]]
    parts = exact_parts(op.weight, np.zeros_like(op.bias), params, whole=op.groups > 1)
    if parts is None:
        raise ExportError(
            f"OpenVINO computes '{op.name}' in float32, which needs sums of at most 2**24, but those can reach "
            f"{partial_sum_bound(op.weight, params)}. Lower its weight or activation bits."
        )
    total = ops.constant(op.bias.astype(np.int32).reshape(1, -1, 1, 1))
    for start, stop in parts:
        part = source
        if stop - start < channels:
            part = ops.slice(source, *map(builder.integers, (start, stop, 1, 1)))
        sums = products(op, builder, part, partial(builder.weight, op), op.weight[:, start:stop])
        total = ops.add(total, ops.convert(sums, "i32"))
    return total
