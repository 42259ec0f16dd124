# SPDX-License-Identifier: MIT
"""Images, sums of two tensors and requantizations as calls of TIR functions."""

from __future__ import annotations

from math import prod

import numpy as np

from bitwright.export.tvm.kernels.elementwise import (
    LANES,
    Addition,
    Images,
    Requantization,
    addition,
    quantization,
    requantization,
)
from bitwright.export.tvm.network import Network, add_to_tvm, rounding_constants
from bitwright.integer.multipliers import INT32_MAX
from bitwright.integer.ops import (
    IntegerAdd,
    IntegerRequantize,
    Quantize,
    ReciprocalQuantize,
)
from bitwright.quantizer.sums import magnitude, weighted_bound


@add_to_tvm.register(Quantize)
@add_to_tvm.register(ReciprocalQuantize)
def _(op: Quantize | ReciprocalQuantize, network: Network) -> None:
    dtype = network.dtype(op.name)
    reciprocal = isinstance(op, ReciprocalQuantize)
    channels, height, width = op.shape
    spec = Images((channels, height, width), network.pixels is not None, reciprocal, op.low, op.high, dtype)
    scale = np.array([op.scale], dtype=np.float32)
    factor = np.float32(1) / scale if reciprocal else scale
    if network.pixels is not None:
        factor = network.pixels.table(op).astype(dtype)
    network.set(op, spec, quantization, [network.images], [factor])


@add_to_tvm.register
def _(op: IntegerAdd, network: Network) -> None:
    total = weighted_bound((network.model.formats[name].ends for name in op.inputs), op.multipliers)
    first, second = (network.dtype(name) for name in op.inputs)
    spec = Addition(
        prod(op.shape), (first, second), op.multipliers, op.shift, op.low, op.high,
        total + (1 << op.shift) > INT32_MAX, network.dtype(op.name),
    )  # fmt: skip
    network.set(op, spec, addition, [network.values[name] for name in op.inputs])


@add_to_tvm.register
def _(op: IntegerRequantize, network: Network) -> None:
    (source,) = op.inputs
    largest = np.array([magnitude(network.model.formats[source].ends)])
    rounding, found = network.rounding(op, op.rescale, largest, LANES)
    assert rounding is not None
    spec = Requantization(prod(op.shape), network.dtype(source), rounding, network.dtype(op.name))
    network.set(op, spec, requantization, [network.values[source]], rounding_constants(found))
