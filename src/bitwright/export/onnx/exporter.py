# SPDX-License-Identifier: MIT
"""IntegerModel to ONNX: standard operators only, the same integers at every optimisation level.

All activations of up to 8 bits are uint8, signed ones of k bits with zero point 2**(k-1), since engines are fast for uint8 x
int8. Scales of convolutions are 1 but for the weights', which is the proved multiplier `b / 2**c`: the engine's `float32(sum)
* float32(scale)` is then the formula that the certificate is about. Additions multiply by `m / 2**shift`, whose sums are
exact in float32. Average pooling is a depthwise convolution with weights of one. Weights of up to 4 bits are stored as INT4
and cast to INT8 at load.

The published models' multipliers of 31 bits are replaced by float32 ones that give the same integers, where there are such
(`integer.narrow`); elsewhere, and on sums without a clamp, float64 computes what float32 cannot (`onnx_float64`).

Streams of 16 bits are float32 tensors of integers: a layer that writes one is a ConvInteger, whose sums are multiplied and
rounded by the same formula (`onnx_sums`), and all that reads one is a multiplication that float32 does exactly.

On CPUs without 8-bit dot products, uint8 x int8 adds two products in 16 bits, which saturate. Unless the target is a CPU that
has them, layers where that could happen store their weights as uint8: engines multiply those in 16 bits
and add in 32, exactly, on every CPU.
"""

from __future__ import annotations

from dataclasses import replace
from functools import singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from bitwright.errors import ExportError
from bitwright.export.conditions import conditions, for_float32
from bitwright.export.names import integer_name
from bitwright.export.onnx.builder import OnnxBuilder, Weight, saturates, zero_point
from bitwright.export.onnx.float64 import add_in_float64, floor_average, rescale_in_float64
from bitwright.export.onnx.graph import BATCH, move_in_onnx, window
from bitwright.export.onnx.outputs import add_real, file_names, output_infos
from bitwright.export.onnx.streams import add_streams, rescale_stream
from bitwright.export.onnx.sums import add_sums, add_wide_average, needs_float64
from bitwright.export.pixels import Pixels, affine
from bitwright.export.seal import write_sealed
from bitwright.export.target import Target, check_target
from bitwright.graph.nodes import Concat, DepthToSpace, MaxPool2d, Node, Selection
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import (
    Accumulate,
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerFloorAvgPool2d,
    IntegerLinear,
    IntegerRequantize,
    Quantize,
    ReciprocalQuantize,
    Rescale,
)
from bitwright.integer.outputs import Output
from bitwright.integer.proof.narrow import in_float32


def export_onnx(
    model: IntegerModel, path: str | Path, target: Target | str = Target.ANY, pixels: Pixels | None = None
) -> onnx.ModelProto:
    """Write `model` as ONNX, atomically.

    The graph takes `images` (batch x channels x height x width) and returns `logits_int32` (the integers of the model) and
    `logits` (float32, the integers times the unit of each class); of several outputs, `NAME_int32` and `NAME` for each.

    Args:
        model: What to export.
        path: Of the file.
        target: The CPUs that it must be exact on.
        pixels: How images were normalised in training: the file then takes uint8 pixels, and normalises and quantizes them
            itself; without, it takes normalised float32 images.

    Raises:
        ExportError: If the target is `avx2` and a layer can saturate, the channels of `pixels` do not match, or float32 cannot
            hold a sum over a 16-bit stream.
    """
    made = to_onnx(model, target, pixels)
    write_sealed(path, made.SerializeToString())
    return made


def to_onnx(model: IntegerModel, target: Target | str = Target.ANY, pixels: Pixels | None = None) -> onnx.ModelProto:
    """`model` as an ONNX model, checked by ONNX's own checker; see `export_onnx`."""
    builder = OnnxBuilder(model=for_float32(model), target=Target(target), pixels=pixels)
    check_target(builder.model, builder.target)
    for op in builder.model:
        add_to_onnx(op, builder)
    inner = builder.make_room(file_names(model))
    for name, output in builder.model.outputs.items():
        _add_integers(name, output, inner.get(output.tensor, output.tensor), builder)
        add_real(name, output, len(model.output_shapes[name]), builder)
    kind = TensorProto.FLOAT if pixels is None else TensorProto.UINT8
    return builder.finish(
        model.model,
        [helper.make_tensor_value_info("images", kind, [BATCH, *model.input_shape])],
        output_infos(model),
        onnx_conditions(model, builder.target, pixels),
    )


def onnx_conditions(model: IntegerModel, target: Target, pixels: Pixels | None) -> dict[str, str]:
    """What the file says about itself: scheme, bounds and certificates, and on which CPUs and images it is exact."""
    wide = [op.name for op in model.layers().values() if saturates(op, model)]
    if target is Target.AVX2:
        words = "exact on every CPU; no two products of any layer exceed 16 bits"
    elif wide and target is Target.VNNI:
        words = f"needs 8-bit dot products (VNNI, dotprod): without, {len(wide)} layers can saturate, first {wide[0]}"
    else:
        words = (
            f"exact on every CPU; {len(wide)} layers hold uint8 weights, since int8 ones could saturate without VNNI"
        )
    return {**conditions(model, target, pixels), "saturation": words}


def _add_integers(name: str, output: Output, source: str, builder: OnnxBuilder) -> None:
    """`NAME_int32`: accumulators as they are, quantized values without their zero point."""
    params, integers = builder.model.formats.get(output.tensor), integer_name(name)
    if params is None:
        builder.node("Identity", [source], integers)
    elif builder.wide(output.tensor):
        builder.node("Cast", [source], integers, to=TensorProto.INT32)
    else:
        builder.node("Cast", [source], f"{integers}:stored", to=TensorProto.INT32)
        point = builder.constant(f"{integers}:zero_point", np.array(zero_point(params), dtype=np.int32))
        builder.node("Sub", [f"{integers}:stored", point], integers)


@singledispatch
def add_to_onnx(op: Node, builder: OnnxBuilder) -> None:
    """Add the ONNX form of one operation."""
    raise ExportError(f"no ONNX form of {type(op).__name__} ('{op.name}').")


@add_to_onnx.register
def _(op: Selection | Concat, builder: OnnxBuilder) -> None:
    if builder.carrier(op.name) != TensorProto.INT32 or not isinstance(op, MaxPool2d | DepthToSpace):
        move_in_onnx(op, builder)
        return
    # ONNX has no maxima of int32, and ONNX Runtime no such pixels: float64 holds all of them.
    moved = replace(op, name=f"{op.name}.double", inputs=(builder.cast(op.inputs[0], TensorProto.DOUBLE),))
    move_in_onnx(moved, builder)
    builder.node("Cast", [moved.name], op.name, to=TensorProto.INT32)


@add_to_onnx.register(Quantize)
@add_to_onnx.register(ReciprocalQuantize)
def _(op: Quantize | ReciprocalQuantize, builder: OnnxBuilder) -> None:
    if builder.pixels is None:
        if isinstance(op, ReciprocalQuantize):
            reciprocal = builder.scalar(float(np.float32(1) / np.float32(op.scale)))
            real = builder.node("Mul", ["images", reciprocal], f"{op.name}.real")
        elif builder.wide(op.name):
            real = builder.node("Div", ["images", builder.scalar(op.scale)], f"{op.name}.real")
        else:
            builder.quantized("images", op.scale, op.name, op.low, op.high)
            return
        builder.rounded(real, op.name, op.low, op.high)
        return
    table = builder.pixels.table(op)
    exact = affine(table, op.low, op.high)
    if exact is None:
        _look_up(op, builder, table)
        return
    builder.node("Cast", ["images"], f"{op.name}.float", to=TensorProto.FLOAT)
    gain = builder.constant(f"{op.name}.gain", exact.gain.reshape(-1, 1, 1))
    offset = builder.constant(f"{op.name}.offset", exact.offset.reshape(-1, 1, 1))
    builder.node("Mul", [f"{op.name}.float", gain], f"{op.name}.scaled")
    builder.rounded(builder.node("Add", [f"{op.name}.scaled", offset], f"{op.name}.real"), op.name, op.low, op.high)


def _look_up(op: Quantize | ReciprocalQuantize, builder: OnnxBuilder, table: npt.NDArray[np.int32]) -> None:
    """The tables of all channels behind one another; channel c looks from 256 c on."""
    channels, levels = table.shape
    if builder.wide(op.name):
        stored: npt.NDArray[Any] = table.astype(np.float32).reshape(-1)
    else:
        stored = (table + zero_point(builder.model.formats[op.name])).astype(np.uint8).reshape(-1)
    first = (np.arange(channels, dtype=np.int32) * levels).reshape(-1, 1, 1)
    builder.node("Cast", ["images"], f"{op.name}.int32", to=TensorProto.INT32)
    places = [f"{op.name}.int32", builder.constant(f"{op.name}.first", first)]
    builder.node("Add", places, f"{op.name}.place")
    builder.node("Gather", [builder.constant(f"{op.name}.table", stored), f"{op.name}.place"], op.name)


@add_to_onnx.register
def _(op: IntegerConv2d, builder: OnnxBuilder) -> None:
    attributes = {**window(op.weight.shape[2:], op.stride, op.padding, op.dilation), "group": op.groups}
    rescale = _qlinear(op, builder)
    if rescale is not None:
        _convolution(op, rescale, builder, op.inputs[0], builder.weight(op, op.weight), op.bias, attributes)
        return
    weight = builder.weight(op, op.weight, unsigned=True)
    add_sums(op, builder, "ConvInteger", weight, op.bias.reshape(-1, 1, 1), op.rescale, attributes)


def _qlinear(op: Accumulate, builder: OnnxBuilder) -> Rescale | None:
    """The rescaling of what QLinearConv can compute: to at most 8 bits, by float32 multipliers."""
    rescale = op.rescale
    return None if rescale is None or builder.wide(op.name) or not in_float32(rescale) else rescale


@add_to_onnx.register
def _(op: IntegerLinear, builder: OnnxBuilder) -> None:
    rescale = _qlinear(op, builder)
    if rescale is None:
        weight = builder.weight(op, np.ascontiguousarray(op.weight.T))
        add_sums(op, builder, "MatMulInteger", weight, op.bias, op.rescale, {})
        return
    # A matrix product is a convolution of a 1 x 1 image, which has scales per channel and a bias.
    outputs, inputs = op.weight.shape
    image = builder.node("Reshape", [op.inputs[0], builder.integers(-1, inputs, 1, 1)], f"{op.name}.image")
    weight = builder.weight(op, op.weight.reshape(outputs, inputs, 1, 1))
    column = f"{op.name}.column"
    _convolution(op, rescale, builder, image, weight, op.bias, {"kernel_shape": [1, 1]}, column)
    builder.node("Reshape", [column, builder.integers(-1, outputs)], op.name)


@add_to_onnx.register
def _(op: IntegerAvgPool2d, builder: OnnxBuilder) -> None:
    channels = op.shape[0]
    attributes = {**window(op.kernel, op.stride, op.padding), "group": channels}
    if builder.wide(op.inputs[0]):
        add_wide_average(op, builder, attributes)
        return
    weight = builder.ones(channels, op.kernel)
    rescale = _qlinear(op, builder)
    if rescale is None:
        add_sums(op, builder, "ConvInteger", weight, None, op.rescale, attributes)
    else:
        bias = np.zeros(channels, dtype=np.int32)
        _convolution(op, rescale, builder, op.inputs[0], weight, bias, attributes)


def _convolution(
    op: Node,
    rescale: Rescale,
    builder: OnnxBuilder,
    source: str,
    weight: Weight,
    bias: npt.NDArray[np.int32],
    attributes: dict[str, Any],
    output: str | None = None,
) -> None:
    """Accumulators, requantized: QLinearConv, whose scales are all 1 but for the weights', the multipliers."""
    one = builder.scalar(1.0)
    multiplier = np.broadcast_to(rescale.multipliers.as_float32(), len(bias)).copy()
    scale = builder.constant(f"{op.name}.multiplier", multiplier)
    offset = builder.constant(f"{op.name}.bias", bias)
    operands = [
        source, one, builder.zero(op.inputs[0]), weight.values, scale, weight.zeros, one, builder.zero(op.name), offset,
    ]  # fmt: skip
    builder.clamped(
        output or op.name,
        builder.model.formats[op.name],
        rescale.low,
        rescale.high,
        lambda made: builder.node("QLinearConv", operands, made, **attributes),
    )


@add_to_onnx.register
def _(op: IntegerAdd, builder: OnnxBuilder) -> None:
    if TensorProto.DOUBLE in map(builder.carrier, (*op.inputs, op.name)):
        add_in_float64(op, builder)
        return
    add_streams(op, builder)


@add_to_onnx.register
def _(op: IntegerRequantize, builder: OnnxBuilder) -> None:
    if needs_float64(op, op.rescale, builder):
        rescale_in_float64(op, op.rescale, builder, op.inputs[0])
        return
    rescale_stream(op, builder)


@add_to_onnx.register
def _(op: IntegerFloorAvgPool2d, builder: OnnxBuilder) -> None:
    floor_average(op, builder)
