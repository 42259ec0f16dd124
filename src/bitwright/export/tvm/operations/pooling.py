# SPDX-License-Identifier: MIT
"""Means and maxima over windows as calls of TIR functions."""

from __future__ import annotations

import numpy as np

from bitwright.errors import ExportError
from bitwright.export.tvm.kernels.pooling import Maximum, Sum, maximum, windowed_sum
from bitwright.export.tvm.network import Network, add_to_tvm, rounding_constants
from bitwright.graph.nodes import MaxPool2d
from bitwright.integer.multipliers import INT32_MAX
from bitwright.integer.ops import (
    IntegerAvgPool2d,
    IntegerFloorAvgPool2d,
    Rescale,
)
from bitwright.quantizer.sums import magnitude, window_sums


@add_to_tvm.register
def _(op: IntegerAvgPool2d, network: Network) -> None:
    _pool(op, network, op.rescale, floor=False)


@add_to_tvm.register
def _(op: IntegerFloorAvgPool2d, network: Network) -> None:
    _pool(op, network, None, floor=True)


def _pool(
    op: IntegerAvgPool2d | IntegerFloorAvgPool2d, network: Network, rescale: Rescale | None, *, floor: bool
) -> None:
    (source,) = op.inputs
    params = network.model.formats[source]
    channels, height, width = network.shapes[source]
    largest = magnitude(window_sums(op.kernel, params.ends))
    if largest > INT32_MAX and not floor:
        raise ExportError(f"sums of '{op.name}' can reach {largest}, beyond int32. Use residual_bits: 8.")
    rounding, found = network.rounding(op, rescale, np.array([largest]), channels)
    spec = Sum(
        (channels, height, width), (op.shape[1], op.shape[2]), op.kernel, op.stride, op.padding, network.dtype(source),
        rounding, floor, network.dtype(op.name),
    )  # fmt: skip
    network.set(op, spec, windowed_sum, [network.values[source]], rounding_constants(found))


@add_to_tvm.register
def _(op: MaxPool2d, network: Network) -> None:
    (source,) = op.inputs
    channels, height, width = network.shapes[source]
    spec = Maximum(
        (channels, height, width), (op.shape[1], op.shape[2]), op.kernel, op.stride, op.padding, op.dilation,
        network.dtype(source),
    )  # fmt: skip
    network.set(op, spec, maximum, [network.values[source]])
