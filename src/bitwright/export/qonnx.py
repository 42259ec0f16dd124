# SPDX-License-Identifier: MIT
"""IntegerModel to QONNX: float32 tensors of integers, with a Quant node that states the bits of each.

QONNX is what FPGA flows (FINN, hls4ml) read. Scales of all Quant nodes are 1: weights and activations are the model's integers
themselves. Convolutions are float32; they give exact integers, in any order of summation, while all their sums stay within 2**24,
which is checked for every layer. Where they may not, the layer becomes two, one for each digit of its weights (`digits`), whose
float32 sum is the accumulator rounded once. Times the proved multiplier, rounded by the Quant node (halves to even), that is the
formula that the certificate is about.

Accumulators that leave the network as its logits are float32 numbers too, or int32 where float32 cannot hold them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property, singledispatch
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from bitwright.errors import ExportError
from bitwright.export.conditions import conditions, for_float32
from bitwright.export.digits import (
    BYTE_BITS,
    Digit,
    Digits,
    digits_as_json,
    layers_in_digits,
    means_in_bytes,
    sums_of,
)
from bitwright.export.onnx_graph import BATCH, IR_VERSION, OnnxGraph, identifier, move_in_onnx, window
from bitwright.export.onnx_streams import add_streams, rescale_stream
from bitwright.export.pixels import Pixels, affine
from bitwright.export.seal import write_sealed
from bitwright.export.target import Target
from bitwright.graph.nodes import Node
from bitwright.integer.model import IntegerModel
from bitwright.integer.narrow import in_float32
from bitwright.integer.ops import (
    Accumulate,
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerLinear,
    IntegerRequantize,
    Quantize,
    Rescale,
)

DOMAIN = "qonnx.custom_op.general"
OPSET = 13
"""What the qonnx package's transformations are written for; Clip, Mul and Conv have not changed since."""


@dataclass
class QonnxBuilder(OnnxGraph):
    """The graph of an integer model so far.

    Attributes:
        model: What is exported.
        pixels: How images were normalised, if the file takes pixels.
        logits_type: What carries the accumulators that leave the network.
    """

    model: IntegerModel = field(kw_only=True)
    pixels: Pixels | None = field(kw_only=True, default=None)
    logits_type: int = field(kw_only=True, default=int(TensorProto.FLOAT))

    @cached_property
    def cuts(self) -> dict[str, Digits]:
        """The layers in two digits."""
        return layers_in_digits(self.model)

    @cached_property
    def means(self) -> list[str]:
        """The averages of tensors in two bytes."""
        return means_in_bytes(self.model)

    def quant(self, source: str, output: str, bits: int, signed: bool, mode: str = "ROUND") -> str:
        """Round (halves to even, unless `mode` says otherwise) and clamp to a format, at scale 1."""
        operands = [source, self.scalar(1.0), self.scalar(0.0), self.scalar(bits)]
        attributes = {"signed": int(signed), "narrow": 0, "rounding_mode": mode}
        return self.node("Quant", operands, output, domain=DOMAIN, **attributes)

    def rounded(self, real: str, output: str, low: int, high: int) -> None:
        """A real tensor in the format of `output`, clamped to [low, high] where that is less."""
        params = self.model.formats[output]
        if (low, high) == (params.quant_min, params.quant_max):
            self.quant(real, output, params.bit_width, params.signed)
            return
        self.quant(real, f"{output}.unclamped", params.bit_width, params.signed)
        self.node("Clip", [f"{output}.unclamped", self.scalar(low), self.scalar(high)], output)

    def real(self, source: str, scale: float, output: str) -> str:
        """A tensor times one number."""
        return self.scaled(source, np.array(scale, dtype=np.float32), output)

    def scaled(self, source: str, scale: npt.NDArray[np.float32], output: str) -> str:
        """A tensor times the multipliers of its channels, or one for all."""
        name = self.constant(f"{output}.multiplier", scale)
        return self.node("Mul", [source, name], output)

    def joined(self, high: str, low: str, shift: int, op: Accumulate) -> None:
        """The accumulators `2**shift * high + low` of `op`, rounded once to float32; as logits, the very sums in int32."""
        if op.rescale is None:
            high, low = (self.node("Cast", [term], f"{term}.int32", to=TensorProto.INT32) for term in (high, low))
            factor = self.constant(f"int32.{1 << shift}", np.array(1 << shift, dtype=np.int32))
            self.logits_type = int(TensorProto.INT32)
        else:
            factor = self.scalar(1 << shift)
        self.node("Add", [self.node("Mul", [high, factor], f"{high}.shifted"), low], _accumulator(op))

    def in_bytes(self, source: str, high: str, low: str) -> tuple[str, str]:
        """A tensor of 9 to 16 bits as `2**8 * high + low`, both exact."""
        params = self.model.formats[source]
        fraction = self.real(source, 2.0**-BYTE_BITS, f"{high}.real")
        self.quant(fraction, high, max(params.bit_width - BYTE_BITS, 2), params.signed, mode="FLOOR")
        upper = self.real(high, 2.0**BYTE_BITS, f"{high}.upper")
        rest = self.node("Sub", [source, upper], f"{low}.rest")
        return high, self.quant(rest, low, BYTE_BITS, signed=False)


def export_qonnx(
    model: IntegerModel, path: str | Path, target: Target | str = Target.ANY, pixels: Pixels | None = None
) -> onnx.ModelProto:
    """Write `model` as QONNX, atomically.

    The graph takes `images` and returns `logits_int32`: the integers of the model, carried by float32 as everything in QONNX, or
    int32 where they can exceed 2**24. What one integer of each class is worth stands in the metadata, as `output_unit`; which
    layers are in two digits, as `digits`.

    Args:
        model: What to export.
        path: Of the file.
        target: The same for all: QONNX states what is computed, not how.
        pixels: How images were normalised in training: the file then takes pixels from 0 to 255; without, normalised images.

    Raises:
        ExportError: If sums of digits can exceed 2**24 as well, or a multiplier has more bits than float32 holds.
    """
    made = to_qonnx(model, pixels)
    write_sealed(path, made.SerializeToString())
    return made


def to_qonnx(model: IntegerModel, pixels: Pixels | None = None) -> onnx.ModelProto:
    """`model` as a QONNX model; see `export_qonnx`."""
    model = for_float32(model)
    for op in model:
        rescale: Rescale | None = getattr(op, "rescale", None)
        if rescale is not None and not in_float32(rescale):
            raise ExportError(
                f"QONNX computes in float32, and no float32 number gives the integers of the 31-bit multipliers of '{op.name}'. "
                "Export as onnx, or lower its float weights with certified multipliers: `bitwright zoo import --float`, then "
                "`bitwright train` and `bitwright lower`."
            )
    builder = QonnxBuilder(model=model, pixels=pixels)
    for op in model:
        add_to_qonnx(op, builder)
    builder.node("Identity", [model.output], "logits_int32")
    shape = next(op.shape for op in model if op.name == model.output)
    graph = helper.make_graph(
        builder.nodes,
        identifier(model.model),
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [BATCH, *model.input_shape])],
        [helper.make_tensor_value_info("logits_int32", builder.logits_type, [BATCH, *shape])],
        list(builder.constants.values()),
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    made = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    made.producer_name = "bitwright"
    facts = conditions(model, Target.ANY, pixels)
    facts["sums"] = sums_of(builder.cuts, builder.means)
    facts["digits"] = digits_as_json(builder.cuts)
    facts["output_unit"] = json.dumps(np.array(model.output_unit).tolist())
    helper.set_model_props(made, facts)
    return made


@singledispatch
def add_to_qonnx(op: Node, builder: QonnxBuilder) -> None:
    """Add the QONNX form of one operation; what only moves values looks the same in all ONNX files."""
    move_in_onnx(op, builder)


@add_to_qonnx.register
def _(op: Quantize, builder: QonnxBuilder) -> None:
    if builder.pixels is None:
        real = builder.node("Div", ["images", builder.scalar(op.scale)], f"{op.name}.real")
        builder.rounded(real, op.name, op.low, op.high)
        return
    exact = affine(builder.pixels.table(op), op.low, op.high)
    if exact is None:
        raise ExportError(f"'{op.name}': no gain and offset give the integers of all pixels; export without pixels.")
    scaled = builder.scaled("images", exact.gain.reshape(-1, 1, 1), f"{op.name}.scaled")
    offset = builder.constant(f"{op.name}.offset", exact.offset.reshape(-1, 1, 1))
    builder.rounded(builder.node("Add", [scaled, offset], f"{op.name}.real"), op.name, op.low, op.high)


@add_to_qonnx.register(IntegerConv2d)
@add_to_qonnx.register(IntegerLinear)
def _(op: IntegerConv2d | IntegerLinear, builder: QonnxBuilder) -> None:
    cut = builder.cuts.get(op.name)
    if cut is None:
        _add_layer(op, Digit(op.weight, op.bias, op.weight_bits), op.name, _accumulator(op), builder)
    else:
        high, low = (
            _add_layer(op, digit, name, f"{name}.accumulator", builder)
            for digit, name in ((cut.high, f"{op.name}.high"), (cut.low, f"{op.name}.low"))
        )
        builder.joined(high, low, cut.shift, op)
    _finish(op, builder)


@add_to_qonnx.register
def _(op: IntegerAvgPool2d, builder: QonnxBuilder) -> None:
    (source,) = op.inputs
    ones = builder.constant(f"{op.name}.ones", np.ones((op.shape[0], 1, *op.kernel), dtype=np.float32))
    attributes = {**window(op.kernel, op.stride, op.padding), "group": op.shape[0]}
    if op.name not in builder.means:
        builder.node("Conv", [source, ones], _accumulator(op), **attributes)
    else:
        high, low = (
            builder.node("Conv", [byte, ones], f"{byte}.sums", **attributes)
            for byte in builder.in_bytes(source, f"{op.name}.high", f"{op.name}.low")
        )
        builder.joined(high, low, BYTE_BITS, op)
    _finish(op, builder)


def _accumulator(op: Accumulate) -> str:
    """The tensor of accumulators: the result itself where they leave the network."""
    return op.name if op.rescale is None else f"{op.name}.accumulator"


def _add_layer(op: IntegerConv2d | IntegerLinear, digit: Digit, name: str, output: str, builder: QonnxBuilder) -> str:
    """A layer with these weights, behind a Quant node that states their bits, and this bias."""
    if isinstance(op, IntegerLinear):
        operation, values, bias, attributes = "MatMul", np.ascontiguousarray(digit.weight.T), digit.bias, {}
    else:
        operation, values, bias = "Conv", digit.weight, digit.bias.reshape(-1, 1, 1)
        attributes = {**window(op.weight.shape[2:], op.stride, op.padding, op.dilation), "group": op.groups}
    stored = builder.constant(f"{name}.weight_float", values.astype(np.float32))
    weight = builder.quant(stored, f"{name}.weight", digit.bits, signed=True)
    sums = builder.node(operation, [op.inputs[0], weight], f"{name}.sums", **attributes)
    return builder.node("Add", [sums, builder.constant(f"{name}.bias", bias.astype(np.float32))], output)


def _finish(op: Accumulate, builder: QonnxBuilder) -> None:
    """Requantize, unless the accumulators leave the network."""
    if op.rescale is None:
        return
    multiplier = op.rescale.multipliers.as_float32()
    columns: tuple[Any, ...] = (-1, *[1] * (len(op.shape) - 1)) if multiplier.size > 1 else ()
    real = builder.scaled(_accumulator(op), multiplier.reshape(columns), f"{op.name}.real")
    builder.rounded(real, op.name, op.rescale.low, op.rescale.high)


add_to_qonnx.register(IntegerAdd, add_streams)
add_to_qonnx.register(IntegerRequantize, rescale_stream)
