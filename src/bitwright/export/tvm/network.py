# SPDX-License-Identifier: MIT
"""An integer model as a Relax function: which kernel computes each operation, and with which constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import singledispatch
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import relax

from bitwright.errors import ExportError
from bitwright.export.pixels import Pixels
from bitwright.export.tvm.kernels.convolution import Convolution, Products, convolution, with_bytes
from bitwright.export.tvm.kernels.elementwise import (
    LANES,
    Addition,
    Conversion,
    Images,
    Logits,
    Requantization,
    addition,
    conversion,
    output,
    quantization,
    requantization,
)
from bitwright.export.tvm.kernels.instructions import Instructions
from bitwright.export.tvm.kernels.moving import Flattening, Placement, Selection, flattening, placement, selection
from bitwright.export.tvm.kernels.pooling import Depthwise, Maximum, Sum, depthwise, maximum, windowed_sum
from bitwright.export.tvm.kernels.product import Product, product
from bitwright.export.tvm.kernels.rescaling import Constants, Rounding, plan_rounding
from bitwright.export.tvm.kernels.window import Window
from bitwright.graph.nodes import ChannelShuffle, Concat, DepthToSpace, Flatten, MaxPool2d, Node, Pad, Slice, Take
from bitwright.integer.model import IntegerModel
from bitwright.integer.multipliers import INT32_MAX
from bitwright.integer.ops import (
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerFloorAvgPool2d,
    IntegerLayer,
    IntegerLinear,
    IntegerRequantize,
    Quantize,
    ReciprocalQuantize,
    Rescale,
)
from bitwright.integer.proof.bounds import largest_sums
from bitwright.integer.quant_params import QuantParams
from bitwright.quantizer.sums import magnitude, weighted_bound, window_sums

Array = npt.NDArray[Any]


@dataclass
class Network:
    """The Relax function while it grows.

    Attributes:
        model: What is exported.
        pixels: How images were normalised, if the function takes pixels.
        instructions: Of the CPU.
        builder: Relax's.
        images: The function's parameter.
        batch: Its number of images.
        shapes: Of every tensor, without the batch.
        values: Relax variables by tensor.
        kernels: TIR functions by what they compute: layers of one shape share one.
    """

    model: IntegerModel
    pixels: Pixels | None
    instructions: Instructions
    builder: Any
    images: Any
    batch: Any
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=dict)
    kernels: dict[Any, Any] = field(default_factory=dict)

    def dtype(self, name: str) -> str:
        """The type that holds a tensor."""
        return storage(self.model.formats.get(name))

    def call(
        self,
        spec: Any,
        make: Callable[[Any, str], Any],
        operands: Sequence[Any],
        constants: Sequence[Array],
        shape: Sequence[int],
        dtype: str,
    ) -> Any:
        """Emit a call of the kernel `make(spec, name)`.

        Args:
            spec: What it computes.
            make: Writes its TIR function.
            operands: Relax variables.
            constants: Behind those.
            shape: Of the result, without the batch.
            dtype: Of the result.
        """
        if spec not in self.kernels:
            name = f"{make.__name__}_{len(self.kernels)}"
            self.kernels[spec] = self.builder.add_func(make(spec, name).with_attr("global_symbol", name), name)
        arguments = [*operands, *(relax.const(np.ascontiguousarray(values), str(values.dtype)) for values in constants)]
        kind = relax.TensorType((self.batch, *shape), dtype)
        return self.builder.emit(relax.call_tir(self.kernels[spec], arguments, kind))

    def set(
        self,
        op: Node,
        spec: Any,
        make: Callable[[Any, str], Any],
        operands: Sequence[Any],
        constants: Sequence[Array] = (),
    ) -> None:
        """Compute the tensor of an operation, (batch, elements)."""
        self.values[op.name] = self.call(spec, make, operands, constants, [prod(op.shape)], self.dtype(op.name))

    def rounding(
        self, rescale: Rescale | None, largest: Array, channels: int
    ) -> tuple[Rounding | None, Constants | None]:
        """Form and constants of a requantization, if there is one."""
        return (None, None) if rescale is None else plan_rounding(rescale, largest, channels)


def storage(params: QuantParams | None) -> str:
    """The smallest type that holds a format; None stands for accumulators."""
    if params is None:
        return "int32"
    for dtype in ("uint8", "int8", "int16"):
        limits = np.iinfo(dtype)
        if limits.min <= params.quant_min and params.quant_max <= limits.max:
            return dtype
    return "int32"


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


@singledispatch
def add_to_tvm(op: Node, network: Network) -> None:
    """Add the calls that compute one operation."""
    raise ExportError(f"no TVM form of {type(op).__name__} ('{op.name}').")


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


def _constants(found: Constants | None, order: Array | None = None) -> list[Array]:
    """The rescaling parameters of a kernel."""
    if found is None:
        return []
    return list((found if order is None else found.at(order)).arrays())


@add_to_tvm.register
def _(op: IntegerConv2d, network: Network) -> None:
    (source,) = op.inputs
    params = network.model.formats[source]
    channels, height, width = network.shapes[source]
    filters = len(op.weight)
    rounding, found = network.rounding(op.rescale, largest_accumulators(op, params), filters)
    kernel = (op.weight.shape[2], op.weight.shape[3])
    groups, dtype = op.groups, network.dtype(op.name)
    image = network.values[source]
    if groups == channels == filters and groups > 1 and network.dtype(source) != "int32":
        window = Window(
            height, width, channels, 1, kernel, op.stride, op.padding, op.dilation, network.dtype(source), "int16", 0, 1
        )
        weights = op.weight[:, 0].transpose(1, 2, 0)
        network.set(op, Depthwise(window, rounding, dtype), depthwise, [image], [weights, op.bias, *_constants(found)])
        return
    if network.dtype(source) == "int32":
        raise ExportError(f"'{op.name}' reads a stream of {params.bit_width} bits; TVM's kernels multiply up to 16.")
    window = Window(
        height, width, channels // groups, groups, kernel, op.stride, op.padding, op.dilation, network.dtype(source),
        "int16", 0, 2,
    )  # fmt: skip
    spec = Convolution(window, filters // groups, Products.WORDS, rounding, dtype, network.instructions)
    bias = op.bias
    if network.instructions.avx2 and params.quant_max - params.quant_min <= np.iinfo(np.uint8).max:
        stored = bias_of_bytes(op, params)
        if stored is not None:
            spec = with_bytes(spec, op.weight, params)
            bias = stored if spec.window.offset else bias
    order = spec.channel_order()
    arrays = [spec.arranged(op.weight), np.where(order < 0, 0, bias[order]), *_constants(found, order)]
    network.set(op, spec, convolution, [image], [arrays[0], arrays[1].astype(np.int32), *arrays[2:]])


@add_to_tvm.register
def _(op: IntegerLinear, network: Network) -> None:
    (source,) = op.inputs
    params = network.model.formats[source]
    outputs, inputs = op.weight.shape
    if network.dtype(source) == "int32":
        raise ExportError(f"'{op.name}' reads a stream of {params.bit_width} bits; TVM's kernels multiply up to 16.")
    rounding, found = network.rounding(op.rescale, largest_accumulators(op, params), outputs)
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
    network.set(op, spec, product, [widened], [spec.arranged(op.weight), bias, *_constants(found, order)])


def _pool(
    op: IntegerAvgPool2d | IntegerFloorAvgPool2d, network: Network, rescale: Rescale | None, *, floor: bool
) -> None:
    (source,) = op.inputs
    params = network.model.formats[source]
    channels, height, width = network.shapes[source]
    largest = magnitude(window_sums(op.kernel, params.ends))
    if largest > INT32_MAX and not floor:
        raise ExportError(f"sums of '{op.name}' can reach {largest}, beyond int32. Use residual_bits: 8.")
    rounding, found = network.rounding(rescale, np.array([largest]), channels)
    spec = Sum(
        (channels, height, width), (op.shape[1], op.shape[2]), op.kernel, op.stride, op.padding, network.dtype(source),
        rounding, floor, network.dtype(op.name),
    )  # fmt: skip
    network.set(op, spec, windowed_sum, [network.values[source]], _constants(found))


@add_to_tvm.register
def _(op: IntegerAvgPool2d, network: Network) -> None:
    _pool(op, network, op.rescale, floor=False)


@add_to_tvm.register
def _(op: IntegerFloorAvgPool2d, network: Network) -> None:
    _pool(op, network, None, floor=True)


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
    rounding, found = plan_rounding(op.rescale, largest, LANES)
    spec = Requantization(prod(op.shape), network.dtype(source), rounding, network.dtype(op.name))
    network.set(op, spec, requantization, [network.values[source]], _constants(found))


@add_to_tvm.register
def _(op: MaxPool2d, network: Network) -> None:
    (source,) = op.inputs
    channels, height, width = network.shapes[source]
    spec = Maximum(
        (channels, height, width), (op.shape[1], op.shape[2]), op.kernel, op.stride, op.padding, op.dilation,
        network.dtype(source),
    )  # fmt: skip
    network.set(op, spec, maximum, [network.values[source]])


@add_to_tvm.register
def _(op: Flatten, network: Network) -> None:
    (source,) = op.inputs
    shape = network.shapes[source]
    if prod(shape[1:]) == 1:
        network.values[op.name] = network.values[source]
        return
    spec = Flattening(shape[0], prod(shape[1:]), network.dtype(source))
    network.set(op, spec, flattening, [network.values[source]])


def _select(op: Node, network: Network, runs: Sequence[tuple[int, int, int, int]]) -> None:
    widths = tuple(network.shapes[name][0] for name in op.inputs)
    kinds = {network.dtype(name) for name in op.inputs}
    if len(kinds) > 1:
        raise ExportError(f"'{op.name}' joins tensors of unlike types: {', '.join(sorted(kinds))}.")
    spec = Selection(prod(op.shape[1:]), widths, tuple(runs), kinds.pop())
    network.set(op, spec, selection, [network.values[name] for name in op.inputs])


@add_to_tvm.register
def _(op: Concat, network: Network) -> None:
    _select(op, network, [(index, 0, network.shapes[name][0], 1) for index, name in enumerate(op.inputs)])


@add_to_tvm.register
def _(op: Slice, network: Network) -> None:
    _select(op, network, [(0, op.start, op.stop - op.start, 1)])


@add_to_tvm.register
def _(op: ChannelShuffle, network: Network) -> None:
    # Channel (group i, place j) goes to j * groups + i: for each place, one of every group.
    places = op.shape[0] // op.groups
    _select(op, network, [(0, place, op.groups, places) for place in range(places)])


def _place(op: Node, source: str, network: Network, places: npt.NDArray[np.int64], channels: int) -> None:
    """Runs of so many channels from these elements of an image, with zeros where one is negative."""
    spec = Placement(prod(network.shapes[source]), places.size, channels, network.dtype(source))
    network.set(op, spec, placement, [network.values[source]], [places.reshape(-1).astype(np.int32)])


def _pixels(shape: Sequence[int]) -> npt.NDArray[np.int64]:
    """The first element of every pixel: [height, width]."""
    channels, height, width = shape
    return np.arange(height * width).reshape(height, width) * channels


@add_to_tvm.register
def _(op: Take, network: Network) -> None:
    (source,) = op.inputs
    shape = network.shapes[source]
    if op.axis == 1:
        channels = np.arange(prod(shape)).reshape(prod(shape[1:]), shape[0])
        _place(op, source, network, channels[:, list(op.places)], 1)
    else:
        _place(op, source, network, _pixels(shape).take(op.places, op.axis - 2), shape[0])


@add_to_tvm.register
def _(op: Pad, network: Network) -> None:
    (source,) = op.inputs
    shape, dtype, value = network.shapes[source], network.dtype(source), network.values[source]
    if op.before[0] or op.after[0]:
        runs = ((-1, 0, op.before[0], 1), (0, 0, shape[0], 1), (-1, 0, op.after[0], 1))
        spec = Selection(prod(shape[1:]), (shape[0],), tuple(run for run in runs if run[2]), dtype)
        shape = (op.shape[0], *shape[1:])
        value = network.call(spec, selection, [value], [], [prod(shape)], dtype)
    around = list(zip(op.before[1:], op.after[1:], strict=True))
    places = np.pad(_pixels(shape), around, constant_values=-1).reshape(-1).astype(np.int32)
    network.set(op, Placement(prod(shape), places.size, shape[0], dtype), placement, [value], [places])


@add_to_tvm.register
def _(op: DepthToSpace, network: Network) -> None:
    (source,) = op.inputs
    block, channels = op.block, op.shape[0]
    within = np.arange(block * block).reshape(block, block) * channels
    places = _pixels(network.shapes[source])[:, None, :, None] + within[None, :, None, :]
    _place(op, source, network, places, channels)


def outputs(network: Network) -> list[Any]:
    """For each output, the integers and the real numbers that the network returns, channels first."""
    made = []
    for returned in network.model.outputs.values():
        name, shape = returned.tensor, network.shapes[returned.tensor]
        unit = returned.unit.astype(np.float32)
        if unit.ndim > 1:
            unit = np.ascontiguousarray(np.broadcast_to(unit, shape)).reshape(-1)
        for units, dtype in ((0, "int32"), (len(unit), "float32")):
            spec = Logits(shape, network.dtype(name), units)
            constants = [unit] if units else []
            made.append(network.call(spec, output, [network.values[name]], constants, shape, dtype))
    return made
