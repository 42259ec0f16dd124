# SPDX-License-Identifier: MIT
"""IntegerModel to ONNX: standard operators only, the same integers at every optimisation level.

All activations are uint8, signed ones of k bits with zero point 2**(k-1), since engines are fast for uint8 x int8. Scales of
convolutions are 1 but for the weights', which is the proved multiplier `b / 2**c`: the engine's `float32(sum) * float32(scale)`
is then the formula that the certificate is about. Additions multiply by `m / 2**shift`, whose sums are exact in float32. Average
pooling is a depthwise convolution with weights of one. Weights of up to 4 bits are stored as INT4 and cast to INT8 at load.

On CPUs without 8-bit dot products, uint8 x int8 adds two products in 16 bits, which saturate. Unless the target is a CPU that has
them, layers where that could happen store their weights as uint8 with zero point 128: engines multiply those in 16 bits and add
in 32, exactly, on every CPU.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import singledispatch
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from bitwright.errors import ExportError
from bitwright.export.onnx_graph import BATCH, OnnxGraph, move_in_onnx, window
from bitwright.export.target import Target
from bitwright.files import write_bytes
from bitwright.graph.nodes import Node, Pair
from bitwright.integer.bounds import SATURATING_SUM, largest_pair_sum
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import (
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerLinear,
    IntegerRequantize,
    Quantize,
    Rescale,
)
from bitwright.integer.quant_params import QuantParams

UINT8_ZERO = 128
"""Zero point of weights stored as uint8."""


class Weight(NamedTuple):
    """A weight tensor in the graph: the name of its values, and of its zero points' (one for each channel, or one for all)."""

    values: str
    zeros: str
    zero: str


@dataclass
class OnnxBuilder(OnnxGraph):
    """The graph of an integer model so far."""

    model: IntegerModel = field(kw_only=True)
    target: Target = field(kw_only=True, default=Target.ANY)

    def zero(self, params: QuantParams) -> str:
        """The zero point of an activation."""
        point = zero_point(params)
        return self.constant(f"zero.{point}", np.array(point, dtype=np.uint8))

    def clip(self, source: str, output: str, params: QuantParams, low: int, high: int) -> str:
        """Clamp uint8 values where the saturation of uint8 alone is not the wanted clamp."""
        point = zero_point(params)
        bounds = [
            self.constant(f"uint8.{bound}", np.array(bound, dtype=np.uint8)) for bound in (low + point, high + point)
        ]
        return self.node("Clip", [source, *bounds], output)

    def clamped(self, output: str, params: QuantParams, low: int, high: int, make: Callable[[str], object]) -> None:
        """Call `make` with the name of a uint8 result, which is clamped to [low, high] where necessary."""
        point = zero_point(params)
        if (low + point, high + point) == (0, 255):
            make(output)
        else:
            make(f"{output}.unclamped")
            self.clip(f"{output}.unclamped", output, params, low, high)

    def weight(self, op: IntegerConv2d | IntegerLinear, values: npt.NDArray[np.int8]) -> Weight:
        """An INT8 tensor, stored as INT4 where its width allows, or a UINT8 one where INT8 is not exact on every CPU.

        Args:
            op: The layer.
            values: Its weights, in the layout of the operator.
        """
        channels = len(op.bias)
        if self.target is Target.ANY and saturates(op, self.model):
            shifted = (values.astype(np.int16) + UINT8_ZERO).astype(np.uint8)
            zeros = np.full(channels, UINT8_ZERO, dtype=np.uint8)
            return Weight(
                self.constant(f"{op.name}.weight", shifted),
                self.constant(f"zeros.{channels}.uint8", zeros),
                self.constant(f"zero.{UINT8_ZERO}", zeros[0]),
            )
        if op.weight_bits > 4:
            return self._int8(self.constant(f"{op.name}.weight", values), channels)
        stored = f"{op.name}.weight_int4"
        packed = _pack_int4(values).tobytes()
        self.constants[stored] = helper.make_tensor(stored, TensorProto.INT4, values.shape, packed, raw=True)
        return self._int8(self.node("Cast", [stored], f"{op.name}.weight", to=TensorProto.INT8), channels)

    def ones(self, channels: int, kernel: Pair) -> Weight:
        """Weights of a depthwise convolution that sums."""
        name = f"ones.{channels}.{kernel[0]}.{kernel[1]}"
        return self._int8(self.constant(name, np.ones((channels, 1, *kernel), dtype=np.int8)), channels)

    def _int8(self, values: str, channels: int) -> Weight:
        zeros = self.constant(f"zeros.{channels}", np.zeros(channels, dtype=np.int8))
        return Weight(values, zeros, self.constant("zero.int8", np.array(0, dtype=np.int8)))


def zero_point(params: QuantParams) -> int:
    """What uint8 value stands for zero: the format's smallest integer is stored as 0."""
    return -params.quant_min


def export_onnx(model: IntegerModel, path: str | Path, target: Target | str = Target.ANY) -> onnx.ModelProto:
    """Write `model` as ONNX, atomically.

    The graph takes `images` (float32, batch x channels x height x width) and returns `logits_int32` (the integers of the model)
    and `logits` (float32, the integers times the unit of each class).

    Args:
        model: What to export.
        path: Of the file.
        target: The CPUs that it must be exact on.

    Raises:
        ExportError: If a tensor is wider than 8 bits.
    """
    made = to_onnx(model, target)
    write_bytes(path, made.SerializeToString())
    return made


def to_onnx(model: IntegerModel, target: Target | str = Target.ANY) -> onnx.ModelProto:
    """`model` as an ONNX model, checked by ONNX's own checker."""
    for name, params in model.formats.items():
        if params.bit_width > 8:
            raise ExportError(f"ONNX export needs tensors of at most 8 bits, but '{name}' has {params.bit_width}.")
    builder = OnnxBuilder(model=model, target=Target(target))
    for op in model:
        add_to_onnx(op, builder)
    output = _integer_output(builder)
    unit = np.array(model.output_unit, dtype=np.float32)
    shape = next(op.shape for op in model if op.name == model.output)
    builder.node("Cast", [output], "logits.float", to=TensorProto.FLOAT)
    units = builder.constant("logits.unit", unit.reshape(-1, *[1] * (len(shape) - 1)))
    builder.node("Mul", ["logits.float", units], "logits")
    facts = {"scheme": model.scheme.to_dict(), "layers": dict(model.facts)}
    return builder.finish(
        model.model,
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [BATCH, *model.input_shape])],
        [
            helper.make_tensor_value_info("logits_int32", TensorProto.INT32, [BATCH, *shape]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, [BATCH, *shape]),
        ],
        {
            "bitwright": json.dumps(facts),
            "target": str(builder.target),
            "saturation": _saturation(model, builder.target),
        },
    )


def saturates(op: IntegerConv2d | IntegerLinear, model: IntegerModel) -> bool:
    """Whether two products of `op` can exceed 16 bits."""
    return largest_pair_sum(op.weight, model.formats[op.inputs[0]]) > SATURATING_SUM


def _saturation(model: IntegerModel, target: Target) -> str:
    """Where the file is exact, in words."""
    wide = [op.name for op in model.layers().values() if saturates(op, model)]
    if wide and target is Target.VNNI:
        return f"needs 8-bit dot products (VNNI, dotprod): without, {len(wide)} layers can saturate, first {wide[0]}"
    return f"exact on every CPU; {len(wide)} layers hold uint8 weights, since int8 ones could saturate without VNNI"


def _integer_output(builder: OnnxBuilder) -> str:
    """`logits_int32`: accumulators as they are, quantized values without their zero point."""
    model = builder.model
    params = model.formats.get(model.output)
    if params is None:
        return builder.node("Identity", [model.output], "logits_int32")
    builder.node("Cast", [model.output], "output.int32", to=TensorProto.INT32)
    point = builder.constant("output.zero_point", np.array(zero_point(params), dtype=np.int32))
    return builder.node("Sub", ["output.int32", point], "logits_int32")


@singledispatch
def add_to_onnx(op: Node, builder: OnnxBuilder) -> None:
    """Add the ONNX form of one operation; what only moves values looks the same in all ONNX files."""
    move_in_onnx(op, builder)


@add_to_onnx.register
def _(op: Quantize, builder: OnnxBuilder) -> None:
    params = builder.model.formats[op.name]

    def make(output: str) -> None:
        builder.node("QuantizeLinear", ["images", builder.scalar(op.scale), builder.zero(params)], output)

    builder.clamped(op.name, params, op.low, op.high, make)


@add_to_onnx.register
def _(op: IntegerConv2d, builder: OnnxBuilder) -> None:
    attributes = {**window(op.weight.shape[2:], op.stride, op.padding, op.dilation), "group": op.groups}
    weight = builder.weight(op, op.weight)
    if op.rescale is None:
        _sums(op, builder, "ConvInteger", weight, op.bias.reshape(1, -1, 1, 1), attributes)
    else:
        _convolution(op, op.rescale, builder, op.inputs[0], weight, op.bias, attributes)


@add_to_onnx.register
def _(op: IntegerLinear, builder: OnnxBuilder) -> None:
    if op.rescale is None:
        _sums(op, builder, "MatMulInteger", builder.weight(op, np.ascontiguousarray(op.weight.T)), op.bias, {})
        return
    # A matrix product is a convolution of a 1 x 1 image, which has scales per channel and a bias.
    outputs, inputs = op.weight.shape
    image = builder.node("Reshape", [op.inputs[0], builder.integers(-1, inputs, 1, 1)], f"{op.name}.image")
    weight = builder.weight(op, op.weight.reshape(outputs, inputs, 1, 1))
    column = f"{op.name}.column"
    _convolution(op, op.rescale, builder, image, weight, op.bias, {"kernel_shape": [1, 1]}, column)
    builder.node("Reshape", [column, builder.integers(-1, outputs)], op.name)


@add_to_onnx.register
def _(op: IntegerAvgPool2d, builder: OnnxBuilder) -> None:
    channels = op.shape[0]
    weight = builder.ones(channels, op.kernel)
    bias = np.zeros(channels, dtype=np.int32)
    attributes = {**window(op.kernel, op.stride, op.padding), "group": channels}
    if op.rescale is None:
        _sums(op, builder, "ConvInteger", weight, None, attributes)
    else:
        _convolution(op, op.rescale, builder, op.inputs[0], weight, bias, attributes)


def _sums(
    op: Node,
    builder: OnnxBuilder,
    operation: str,
    weight: Weight,
    bias: npt.NDArray[np.int32] | None,
    attributes: dict[str, Any],
) -> None:
    """Accumulators that leave the network as they are."""
    zero = builder.zero(builder.model.formats[op.inputs[0]])
    operands = [op.inputs[0], weight.values, zero, weight.zero]
    if bias is None:
        builder.node(operation, operands, op.name, **attributes)
        return
    sums = builder.node(operation, operands, f"{op.name}.sums", **attributes)
    builder.node("Add", [sums, builder.constant(f"{op.name}.bias", bias)], op.name)


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
    inputs, params = builder.model.formats[op.inputs[0]], builder.model.formats[op.name]
    one = builder.scalar(1.0)
    multiplier = np.broadcast_to(rescale.multipliers.as_float32(), len(bias)).copy()
    scale = builder.constant(f"{op.name}.multiplier", multiplier)
    offset = builder.constant(f"{op.name}.bias", bias)
    operands = [
        source, one, builder.zero(inputs), weight.values, scale, weight.zeros, one, builder.zero(params), offset,
    ]  # fmt: skip
    builder.clamped(
        output or op.name,
        params,
        rescale.low,
        rescale.high,
        lambda made: builder.node("QLinearConv", operands, made, **attributes),
    )


@add_to_onnx.register
def _(op: IntegerAdd, builder: OnnxBuilder) -> None:
    params = builder.model.formats[op.name]
    terms = []
    for index, (source, multiplier) in enumerate(zip(op.inputs, op.multipliers, strict=True)):
        scale = builder.scalar(multiplier / 2**op.shift)
        operands = [source, scale, builder.zero(builder.model.formats[source])]
        terms.append(builder.node("DequantizeLinear", operands, f"{op.name}.term{index}"))
    total = builder.node("Add", terms, f"{op.name}.sum")

    def make(output: str) -> None:
        builder.node("QuantizeLinear", [total, builder.scalar(1.0), builder.zero(params)], output)

    builder.clamped(op.name, params, op.low, op.high, make)


@add_to_onnx.register
def _(op: IntegerRequantize, builder: OnnxBuilder) -> None:
    params = builder.model.formats[op.name]
    scale = builder.scalar(float(op.rescale.multipliers.as_float32()[0]))
    operands = [op.inputs[0], scale, builder.zero(builder.model.formats[op.inputs[0]])]
    real = builder.node("DequantizeLinear", operands, f"{op.name}.real")

    def make(output: str) -> None:
        builder.node("QuantizeLinear", [real, builder.scalar(1.0), builder.zero(params)], output)

    builder.clamped(op.name, params, op.rescale.low, op.rescale.high, make)


def _pack_int4(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Two values in a byte, the first in the low half, as ONNX stores INT4."""
    flat = np.zeros(prod(weight.shape) + prod(weight.shape) % 2, dtype=np.uint8)
    flat[: prod(weight.shape)] = weight.reshape(-1).view(np.uint8) & 0x0F
    return (flat[0::2] | (flat[1::2] << 4)).astype(np.uint8)
