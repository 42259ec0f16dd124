# SPDX-License-Identifier: MIT
"""Sums of products in an OpenVINO file, on the kernel of each layer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitwright.errors import ExportError
from bitwright.export.openvino.builder import OpenvinoBuilder, Value
from bitwright.export.openvino.kernels import DOUBLED, INT8, PARTS
from bitwright.integer.ops import IntegerLayer, IntegerLinear
from bitwright.integer.proof.bounds import exact_parts, partial_sum_bound


def layer_sums(
    op: IntegerLayer,
    builder: OpenvinoBuilder,
    weight: npt.NDArray[np.int8],
    window: list[list[int]],
    groups: int = 1,
) -> Value:
    """Accumulators: float32, or int32 where they are added in parts."""
    ops = builder.ops
    kernel = builder.kernel(op)
    source = builder.bytes_of(op.inputs[0]) if kernel in (INT8, DOUBLED) else builder.values[op.inputs[0]]
    if isinstance(op, IntegerLinear):
        source = ops.reshape(source, builder.integers(-1, weight.shape[1], 1, 1), False)
    if kernel == DOUBLED:
        source = ops.concat([source, source], 1)
    if kernel == PARTS:
        return _sums_of_parts(op, builder, source, weight, window, groups)
    return ops.add(_products(op, builder, source, weight, window, groups), builder.floats(op.bias.reshape(1, -1, 1, 1)))


def _products(
    op: IntegerLayer,
    builder: OpenvinoBuilder,
    source: Value,
    weight: npt.NDArray[np.int8],
    window: list[list[int]],
    groups: int,
) -> Value:
    """Sums of products, on the layer's kernel."""
    if groups == 1:
        return builder.ops.convolution(source, builder.weight(op, weight), *window)
    repeats = len(weight) // groups
    if weight.shape[1] == 1 and repeats > 1:
        # A channel for each of its filters: then the kernels for depthwise convolutions do it, in less than half the time.
        source = builder.ops.shuffle_channels(builder.ops.concat([source] * repeats, 1), 1, repeats)
        groups = len(weight)
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return builder.ops.group_convolution(source, builder.weight(op, grouped), *window)


def _sums_of_parts(
    op: IntegerLayer,
    builder: OpenvinoBuilder,
    source: Value,
    weight: npt.NDArray[np.int8],
    window: list[list[int]],
    groups: int,
) -> Value:
    """Sums over few enough input channels each that float32 holds them, added as int32."""
    ops, channels = builder.ops, weight.shape[1]
    params = builder.model.formats[op.inputs[0]]
    parts = exact_parts(weight, np.zeros_like(op.bias), params, whole=groups > 1)
    if parts is None:
        raise ExportError(
            f"OpenVINO computes '{op.name}' in float32, which needs sums of at most 2**24, but those can reach "
            f"{partial_sum_bound(weight, params)}. Lower its weight or activation bits."
        )
    total = ops.constant(op.bias.astype(np.int32).reshape(1, -1, 1, 1))
    for start, stop in parts:
        part = source
        if stop - start < channels:
            part = ops.slice(source, *map(builder.integers, (start, stop, 1, 1)))
        sums = _products(op, builder, part, weight[:, start:stop], window, groups)
        total = ops.add(total, ops.convert(sums, "i32"))
    return total
