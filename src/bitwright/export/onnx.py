# SPDX-License-Identifier: MIT
"""IntegerModel to ONNX: standard operators only, the same integers at every optimisation level.

All activations are uint8, signed ones with a zero point, since engines are fast for uint8 x int8. Scales of convolutions are 1
but for the weights', which is the proved multiplier `b / 2**c`: the engine's `float32(sum) * float32(scale)` is then the
formula that the certificate is about. Additions multiply by `m / 2**shift`, whose sums are exact in float32. Average pooling is a
depthwise convolution with weights of one. Weights of up to 4 bits are stored as INT4 and cast to INT8, folded at load.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import singledispatch
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from bitwright.errors import ExportError
from bitwright.export.target import Target
from bitwright.files import write_bytes
from bitwright.graph.nodes import ChannelShuffle, Concat, Flatten, MaxPool2d, Node, Pair, Slice
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

OPSET = 21
IR_VERSION = 10
WEIGHT_ZERO = 128


@dataclass
class OnnxBuilder:
    """Nodes and constants of the ONNX graph so far."""

    model: IntegerModel
    target: Target = Target.ANY
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(values, name)
        return name

    def scalar(self, value: float) -> str:
        """A float32 scalar, shared by all that use the value."""
        exact = np.float32(value)
        return self.constant(f"float.{exact!r}".replace("np.float32", ""), np.array(exact))

    def zero(self, params: QuantParams) -> str:
        point = zero_point(params)
        return self.constant(f"zero.{point}", np.array(point, dtype=np.uint8))

    def node(self, operation: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(operation, inputs, [output], name=output, **attributes))
        return output

    def clip(self, source: str, output: str, params: QuantParams, low: int, high: int) -> str:
        """Clamp uint8 values where the saturation of uint8 alone is not the wanted clamp."""
        point = zero_point(params)
        if (low + point, high + point) == (0, 255):
            raise AssertionError("no clip is needed")
        bounds = [
            self.constant(f"uint8.{bound}", np.array(bound, dtype=np.uint8)) for bound in (low + point, high + point)
        ]
        return self.node("Clip", [source, *bounds], output)

    def finish(self, output: str, params: QuantParams, low: int, high: int, make: Callable[[str], object]) -> None:
        """Call `make` with the name of a uint8 result, which is clamped to [low, high] where necessary."""
        point = zero_point(params)
        if (low + point, high + point) == (0, 255):
            make(output)
        else:
            make(f"{output}.unclamped")
            self.clip(f"{output}.unclamped", output, params, low, high)

    def weight(self, op: IntegerConv2d | IntegerLinear, weight: npt.NDArray[np.int8]) -> tuple[str, npt.NDArray[Any]]:
        """The weights of `op` in the shape given, and the number that stands for zero in them.

        INT8, stored as INT4 where their width allows; uint8 where two products could saturate and the target is any CPU.
        """
        if self.target is Target.ANY and saturates(op, self.model):
            shifted = (weight.astype(np.int16) + WEIGHT_ZERO).astype(np.uint8)
            return self.constant(f"{op.name}.weight", shifted), np.array(WEIGHT_ZERO, dtype=np.uint8)
        zero = np.array(0, dtype=np.int8)
        if op.weight_bits > 4:
            return self.constant(f"{op.name}.weight", weight), zero
        packed = _pack_int4(weight)
        stored = f"{op.name}.weight_int4"
        self.constants[stored] = helper.make_tensor(stored, TensorProto.INT4, weight.shape, packed.tobytes(), raw=True)
        return self.node("Cast", [stored], f"{op.name}.weight", to=TensorProto.INT8), zero

    def weight_zero(self, zero: npt.NDArray[Any], channels: int | None = None) -> str:
        """The zero point of weights, one for all or one per channel."""
        if channels is None:
            return self.constant(f"weight_zero.{zero.dtype}", zero)
        return self.constant(f"weight_zeros.{zero.dtype}.{channels}", np.full(channels, zero))


def saturates(op: IntegerConv2d | IntegerLinear, model: IntegerModel) -> bool:
    """Whether two products of `op` can exceed 16 bits."""
    return largest_pair_sum(op.weight, model.formats[op.inputs[0]]) > SATURATING_SUM


def zero_point(params: QuantParams) -> int:
    """What uint8 value stands for zero."""
    return -params.quant_min


def export_onnx(model: IntegerModel, path: str | Path, target: Target | str = Target.ANY) -> onnx.ModelProto:
    """Write `model` as ONNX, atomically.

    The graph takes `images` (float32, batch x channels x height x width) and returns `logits_int32` (the integers of the model)
    and `logits` (float32, the integers times the unit of each class).

    Args:
        model: The integer model.
        path: The file.
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
    builder = OnnxBuilder(model, Target(target))
    for op in model:
        add_to_onnx(op, builder)
    output = _integer_output(builder)
    unit = np.array(model.output_unit, dtype=np.float32)
    shape = next(op.shape for op in model if op.name == model.output)
    builder.node("Cast", [output], "logits.float", to=TensorProto.FLOAT)
    units = builder.constant("logits.unit", unit.reshape(-1, *[1] * (len(shape) - 1)))
    builder.node("Mul", ["logits.float", units], "logits")
    graph = helper.make_graph(
        builder.nodes,
        _identifier(model.model),
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", *model.input_shape])],
        [
            helper.make_tensor_value_info("logits_int32", TensorProto.INT32, ["batch", *shape]),
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", *shape]),
        ],
        list(builder.constants.values()),
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    made.producer_name = "bitwright"
    facts = {"scheme": model.scheme.to_dict(), "layers": dict(model.facts)}
    helper.set_model_props(made, {"bitwright": json.dumps(facts), "saturation": _saturation(builder)})
    onnx.checker.check_model(made, full_check=True)
    return made


def _saturation(builder: OnnxBuilder) -> str:
    wide = [op.name for op in builder.model.layers().values() if saturates(op, builder.model)]
    if wide and builder.target is Target.VNNI:
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
    """Add the ONNX form of one operation."""
    raise ExportError(f"no ONNX form of {type(op).__name__} ('{op.name}').")


@add_to_onnx.register
def _(op: Quantize, builder: OnnxBuilder) -> None:
    params = builder.model.formats[op.name]

    def make(output: str) -> None:
        builder.node("QuantizeLinear", ["images", builder.scalar(op.scale), builder.zero(params)], output)

    builder.finish(op.name, params, op.low, op.high, make)


@add_to_onnx.register
def _(op: IntegerConv2d, builder: OnnxBuilder) -> None:
    window = _window(op.weight.shape[2:], op.stride, op.padding, op.dilation)
    _convolution(op, builder, builder.weight(op, op.weight), op.bias, {**window, "group": op.groups}, op.rescale)


def _convolution(
    op: Node,
    builder: OnnxBuilder,
    weight_and_zero: tuple[str, npt.NDArray[Any]],
    bias: npt.NDArray[np.int32],
    attributes: dict[str, Any],
    rescale: Rescale | None,
) -> None:
    """QLinearConv, or ConvInteger and the bias where the accumulators leave the network."""
    (source,), (weight, zero) = op.inputs, weight_and_zero
    inputs = builder.model.formats[source]
    if rescale is None:
        operands = [source, weight, builder.zero(inputs), builder.weight_zero(zero)]
        sums = builder.node("ConvInteger", operands, f"{op.name}.sums", **attributes)
        offset = builder.constant(f"{op.name}.bias", bias.reshape(1, -1, 1, 1))
        builder.node("Add", [sums, offset], op.name)
        return
    one, params = builder.scalar(1.0), builder.model.formats[op.name]
    channels = len(bias)
    scale = builder.constant(
        f"{op.name}.multiplier", np.broadcast_to(rescale.multipliers.as_float32(), channels).copy()
    )
    weight_zero = builder.weight_zero(zero, channels)
    offset = builder.constant(f"{op.name}.bias", bias)
    operands = [source, one, builder.zero(inputs), weight, scale, weight_zero, one, builder.zero(params), offset]
    builder.finish(
        op.name,
        params,
        rescale.low,
        rescale.high,
        lambda output: builder.node("QLinearConv", operands, output, **attributes),
    )


def _window(kernel: tuple[int, ...], stride: Pair, padding: Pair, dilation: Pair) -> dict[str, Any]:
    return {
        "kernel_shape": [int(size) for size in kernel],
        "strides": list(stride),
        "pads": [*padding, *padding],
        "dilations": list(dilation),
    }


@add_to_onnx.register
def _(op: IntegerLinear, builder: OnnxBuilder) -> None:
    inputs = builder.model.formats[op.inputs[0]]
    if op.rescale is None:
        weight, zero = builder.weight(op, np.ascontiguousarray(op.weight.T))
        operands = [op.inputs[0], weight, builder.zero(inputs), builder.weight_zero(zero)]
        sums = builder.node("MatMulInteger", operands, f"{op.name}.sums")
        builder.node("Add", [sums, builder.constant(f"{op.name}.bias", op.bias)], op.name)
        return
    # A matrix product is a convolution of a 1 x 1 image, which has scales per channel and a bias.
    image = builder.constant(f"shape.{op.weight.shape[1]}.1.1", np.array([-1, op.weight.shape[1], 1, 1]))
    row = builder.constant(f"shape.{op.weight.shape[0]}", np.array([-1, op.weight.shape[0]]))
    source = builder.node("Reshape", [op.inputs[0], image], f"{op.name}.image")
    weight, zero = builder.weight(op, op.weight.reshape(*op.weight.shape, 1, 1))
    one, params = builder.scalar(1.0), builder.model.formats[op.name]
    scale = builder.constant(f"{op.name}.multiplier", op.rescale.multipliers.as_float32())
    weight_zero = builder.weight_zero(zero, len(op.bias))
    offset = builder.constant(f"{op.name}.bias", op.bias)
    operands = [source, one, builder.zero(inputs), weight, scale, weight_zero, one, builder.zero(params), offset]
    made = builder.node("QLinearConv", operands, f"{op.name}.column", kernel_shape=[1, 1])
    builder.finish(
        op.name, params, op.rescale.low, op.rescale.high, lambda output: builder.node("Reshape", [made, row], output)
    )


@add_to_onnx.register
def _(op: IntegerAvgPool2d, builder: OnnxBuilder) -> None:
    channels = op.shape[0]
    weight = builder.constant(f"ones.{channels}.{op.kernel}", np.ones((channels, 1, *op.kernel), dtype=np.int8))
    window = _window(op.kernel, op.stride, op.padding, (1, 1))
    bias = np.zeros(channels, dtype=np.int32)
    ones = weight, np.array(0, dtype=np.int8)
    _convolution(op, builder, ones, bias, {**window, "group": channels}, op.rescale)


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

    builder.finish(op.name, params, op.low, op.high, make)


@add_to_onnx.register
def _(op: IntegerRequantize, builder: OnnxBuilder) -> None:
    params = builder.model.formats[op.name]
    scale = builder.scalar(float(op.rescale.multipliers.as_float32()[0]))
    operands = [op.inputs[0], scale, builder.zero(builder.model.formats[op.inputs[0]])]
    real = builder.node("DequantizeLinear", operands, f"{op.name}.real")

    def make(output: str) -> None:
        builder.node("QuantizeLinear", [real, builder.scalar(1.0), builder.zero(params)], output)

    builder.finish(op.name, params, op.rescale.low, op.rescale.high, make)


@add_to_onnx.register
def _(op: MaxPool2d, builder: OnnxBuilder) -> None:
    window = _window(op.kernel, op.stride, op.padding, op.dilation)
    builder.node("MaxPool", [op.inputs[0]], op.name, **window, ceil_mode=int(op.ceil_mode))


@add_to_onnx.register
def _(op: Concat, builder: OnnxBuilder) -> None:
    builder.node("Concat", list(op.inputs), op.name, axis=1)


@add_to_onnx.register
def _(op: Flatten, builder: OnnxBuilder) -> None:
    builder.node("Flatten", [op.inputs[0]], op.name, axis=1)


@add_to_onnx.register
def _(op: Slice, builder: OnnxBuilder) -> None:
    numbers = [builder.constant(f"int64.{value}", np.array([value])) for value in (op.start, op.stop, 1)]
    builder.node("Slice", [op.inputs[0], *numbers[:2], numbers[2]], op.name)


@add_to_onnx.register
def _(op: ChannelShuffle, builder: OnnxBuilder) -> None:
    channels, height, width = op.shape
    split = np.array([-1, op.groups, channels // op.groups, height, width])
    grouped = builder.constant("shape." + ".".join(map(str, split)), split)
    merged = builder.constant(f"shape.{channels}.{height}.{width}", np.array([-1, channels, height, width]))
    builder.node("Reshape", [op.inputs[0], grouped], f"{op.name}.groups")
    builder.node("Transpose", [f"{op.name}.groups"], f"{op.name}.transposed", perm=[0, 2, 1, 3, 4])
    builder.node("Reshape", [f"{op.name}.transposed", merged], op.name)


def _pack_int4(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Two values in a byte, the first in the low half, as ONNX stores INT4."""
    flat = np.zeros(prod(weight.shape) + prod(weight.shape) % 2, dtype=np.uint8)
    flat[: prod(weight.shape)] = weight.reshape(-1).view(np.uint8) & 0x0F
    return (flat[0::2] | (flat[1::2] << 4)).astype(np.uint8)


def _identifier(name: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in name) or "model"
