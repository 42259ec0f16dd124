# SPDX-License-Identifier: MIT
"""Convolutions and matrix products as calls of TIR functions."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bitwright.errors import ExportError
from bitwright.export.tvm.kernels.convolution import Convolution, Products, convolution, with_bytes
from bitwright.export.tvm.kernels.depthwise import Depthwise, depthwise, in_dots
from bitwright.export.tvm.kernels.elementwise import (
    Conversion,
    conversion,
)
from bitwright.export.tvm.kernels.instructions import DOT_LANES, Dots
from bitwright.export.tvm.kernels.product import Product, product
from bitwright.export.tvm.kernels.rescaling import Constants, Rounding
from bitwright.export.tvm.kernels.window import Window
from bitwright.export.tvm.network import Array, Network, add_to_tvm, rounding_constants
from bitwright.integer.multipliers import INT32_MAX
from bitwright.integer.ops import (
    IntegerConv2d,
    IntegerLayer,
    IntegerLinear,
)
from bitwright.integer.proof.bounds import largest_sums
from bitwright.integer.quant_params import QuantParams


def largest_accumulators(op: IntegerLayer, params: QuantParams) -> Array:
    """The largest magnitude of each channel's sums, int64 [channels]; refused beyond int32."""
    bound = largest_sums(op.weight, op.bias, params)
    if bound.max(initial=0) > INT32_MAX:
        raise ExportError(
            f"TVM's kernels add in int32, but sums of '{op.name}' can reach {int(bound.max())}. "
            "Lower its weight or activation bits."
        )
    return bound


def bias_of_bytes(op: IntegerConv2d, params: QuantParams) -> npt.NDArray[np.int32] | None:
    """The bias for values that are stored from zero up, int32 [channels]; None if some sum with these can leave int32."""
    bias = op.bias + op.weight.reshape(len(op.weight), -1).sum(1, dtype=np.int64) * params.quant_min
    return bias.astype(np.int32) if largest_sums(op.weight, bias, params.stored).max(initial=0) <= INT32_MAX else None


def _in_bytes(params: QuantParams) -> bool:
    """Whether a byte holds a format's integers, less the least of them."""
    return params.quant_max - params.quant_min <= np.iinfo(np.uint8).max


@add_to_tvm.register
def _(op: IntegerConv2d, network: Network) -> None:
    (source,) = op.inputs
    params = network.model.formats[source]
    channels, height, width = network.shapes[source]
    filters = len(op.weight)
    rounding, found = network.rounding(op, op.rescale, largest_accumulators(op, params), filters)
    kernel = (op.weight.shape[2], op.weight.shape[3])
    groups, dtype = op.groups, network.dtype(op.name)
    image = network.values[source]
    if groups == channels == filters and groups > 1 and network.dtype(source) != "int32":
        _add_depthwise(op, network, rounding, found)
        return
    if network.dtype(source) == "int32":
        raise ExportError(f"'{op.name}' reads a tensor of {params.bit_width} bits; TVM's kernels multiply up to 16.")
    window = Window(
        height, width, channels // groups, groups, kernel, op.stride, op.padding, op.dilation, network.dtype(source),
        "int16", 0, 2,
    )  # fmt: skip
    spec = Convolution(window, filters // groups, Products.WORDS, rounding, dtype, network.instructions)
    bias = op.bias
    if network.instructions.avx2 and _in_bytes(params):
        stored = bias_of_bytes(op, params)
        if stored is not None:
            spec = with_bytes(spec, op.weight, params)
            bias = stored if spec.window.offset else bias
    order = spec.channel_order()
    arrays = [spec.arranged(op.weight), np.where(order < 0, 0, bias[order]), *rounding_constants(found, order)]
    network.set(op, spec, convolution, [image], [arrays[0], arrays[1].astype(np.int32), *arrays[2:]])


def _add_depthwise(op: IntegerConv2d, network: Network, rounding: Rounding | None, found: Constants | None) -> None:
    """A layer with one filter for each channel: in dot products where the CPU has these, and vectors of channels fill them."""
    (source,) = op.inputs
    params, kind = network.model.formats[source], network.dtype(source)
    channels, height, width = network.shapes[source]
    kernel = (op.weight.shape[2], op.weight.shape[3])
    window = Window(height, width, channels, 1, kernel, op.stride, op.padding, op.dilation, kind, "int16", 0, 1)
    spec, bias = Depthwise(window, rounding, network.dtype(op.name), network.instructions), op.bias
    if network.instructions.dots is not Dots.NONE and channels >= DOT_LANES and _in_bytes(params):
        stored = bias_of_bytes(op, params)
        if stored is not None:
            spec, bias = in_dots(spec, params.quant_min), stored
    arrays: list[Array] = [spec.arranged(op.weight[:, 0]), bias, *rounding_constants(found)]
    network.set(op, spec, depthwise, [network.values[source]], arrays)


@add_to_tvm.register
def _(op: IntegerLinear, network: Network) -> None:
    (source,) = op.inputs
    params = network.model.formats[source]
    outputs, inputs = op.weight.shape
    if network.dtype(source) == "int32":
        raise ExportError(f"'{op.name}' reads a tensor of {params.bit_width} bits; TVM's kernels multiply up to 16.")
    rounding, found = network.rounding(op, op.rescale, largest_accumulators(op, params), outputs)
    even = inputs + inputs % 2
    widened = network.call(
        Conversion(inputs, even, network.dtype(source), "int16"),
        conversion,
        [network.values[source]],
        [],
        [even],
        "int16",
    )
    spec = Product(even, outputs, rounding, network.dtype(op.name), network.instructions)
    order = spec.channel_order()
    bias = np.where(order < 0, 0, op.bias[order]).astype(np.int32)
    network.set(op, spec, product, [widened], [spec.arranged(op.weight), bias, *rounding_constants(found, order)])
