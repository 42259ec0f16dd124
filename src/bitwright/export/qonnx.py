# SPDX-License-Identifier: MIT
"""IntegerModel to QONNX: float32 tensors of integers, with a Quant node that states the bits of each.

QONNX is what FPGA flows (FINN, hls4ml) read. Scales of all Quant nodes are 1: weights and activations are the model's integers
themselves. Convolutions are float32; they give exact integers, in any order of summation, while sum|w| * max|a| and every
accumulator stay within 2**24, which is checked for every layer. The accumulator times the proved multiplier, rounded by the Quant
node (halves to even), is then the formula that the certificate is about.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import singledispatch
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from bitwright.errors import ExportError
from bitwright.export.conditions import conditions
from bitwright.export.onnx_graph import BATCH, IR_VERSION, OnnxGraph, identifier, move_in_onnx, window
from bitwright.export.onnx_streams import add_streams, rescale_stream
from bitwright.export.pixels import Pixels, affine
from bitwright.export.target import Target
from bitwright.files import write_bytes
from bitwright.graph.nodes import Node
from bitwright.integer.bounds import FLOAT32_EXACT, accumulator_bounds, partial_sum_bound
from bitwright.integer.model import IntegerModel
from bitwright.integer.narrow import in_float32
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

DOMAIN = "qonnx.custom_op.general"
OPSET = 13
"""What the qonnx package's transformations are written for; Clip, Mul and Conv have not changed since."""


@dataclass
class QonnxBuilder(OnnxGraph):
    """The graph of an integer model so far."""

    model: IntegerModel = field(kw_only=True)
    pixels: Pixels | None = field(kw_only=True, default=None)

    def quant(self, source: str, output: str, bits: int, signed: bool) -> str:
        """Round (halves to even) and clamp to a format, at scale 1."""
        operands = [source, self.scalar(1.0), self.scalar(0.0), self.scalar(bits)]
        attributes = {"signed": int(signed), "narrow": 0, "rounding_mode": "ROUND"}
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


def export_qonnx(
    model: IntegerModel, path: str | Path, target: Target | str = Target.ANY, pixels: Pixels | None = None
) -> onnx.ModelProto:
    """Write `model` as QONNX, atomically.

    The graph takes `images` and returns `logits_int32`: the integers of the model, carried by float32 as everything in QONNX.
    What one integer of each class is worth stands in the metadata, as `output_unit`.

    Args:
        model: What to export.
        path: Of the file.
        target: The same for all: QONNX states what is computed, not how.
        pixels: How images were normalised in training: the file then takes pixels from 0 to 255; without, normalised images.

    Raises:
        ExportError: If an accumulator can exceed 2**24, which float32 cannot hold exactly.
    """
    made = to_qonnx(model, pixels)
    write_bytes(path, made.SerializeToString())
    return made


def to_qonnx(model: IntegerModel, pixels: Pixels | None = None) -> onnx.ModelProto:
    """`model` as a QONNX model; see `export_qonnx`."""
    for op in model:
        rescale: Rescale | None = getattr(op, "rescale", None)
        if rescale is not None and not in_float32(rescale):
            raise ExportError(
                f"QONNX computes in float32, which cannot hold the 31-bit multipliers of '{op.name}', as published models have "
                "them. Export as onnx, or lower its float weights with certified multipliers: `bitwright zoo import --float`, "
                "then `bitwright train` and `bitwright lower`."
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
        [helper.make_tensor_value_info("logits_int32", TensorProto.FLOAT, [BATCH, *shape])],
        list(builder.constants.values()),
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    made = helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)
    made.producer_name = "bitwright"
    facts = conditions(model, Target.ANY, pixels)
    facts["sums"] = "of every layer within 2**24, as float32 convolutions need in any order of summation"
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


@add_to_qonnx.register
def _(op: IntegerConv2d, builder: QonnxBuilder) -> None:
    attributes = {**window(op.weight.shape[2:], op.stride, op.padding, op.dilation), "group": op.groups}
    operands = [op.inputs[0], _weight(op, op.weight, builder)]
    sums = builder.node("Conv", operands, f"{op.name}.sums", **attributes)
    _finish(op, op.rescale, builder, sums, op.bias.reshape(-1, 1, 1))


@add_to_qonnx.register
def _(op: IntegerLinear, builder: QonnxBuilder) -> None:
    operands = [op.inputs[0], _weight(op, np.ascontiguousarray(op.weight.T), builder)]
    sums = builder.node("MatMul", operands, f"{op.name}.sums")
    _finish(op, op.rescale, builder, sums, op.bias)


@add_to_qonnx.register
def _(op: IntegerAvgPool2d, builder: QonnxBuilder) -> None:
    params = builder.model.formats[op.inputs[0]]
    _check(op, prod(op.kernel) * max(params.quant_max, -params.quant_min))
    ones = np.ones((op.shape[0], 1, *op.kernel), dtype=np.float32)
    attributes = {**window(op.kernel, op.stride, op.padding), "group": op.shape[0]}
    weight = builder.constant(f"{op.name}.ones", ones)
    sums = builder.node("Conv", [op.inputs[0], weight], f"{op.name}.sums", **attributes)
    _finish(op, op.rescale, builder, sums, None)


def _weight(op: IntegerConv2d | IntegerLinear, values: npt.NDArray[np.int8], builder: QonnxBuilder) -> str:
    """Integers in float32 behind a Quant node that states their bits; refused where sums are not exact."""
    params: QuantParams = builder.model.formats[op.inputs[0]]
    low, high = accumulator_bounds(op.weight, op.bias, params)
    _check(op, max(partial_sum_bound(op.weight, params), int(high.max()), -int(low.min())))
    stored = builder.constant(f"{op.name}.weight_float", values.astype(np.float32))
    return builder.quant(stored, f"{op.name}.weight", op.weight_bits, signed=True)


def _check(op: Node, largest: int) -> None:
    if largest > FLOAT32_EXACT:
        raise ExportError(
            f"QONNX computes in float32, which needs sums of at most 2**24, but those of '{op.name}' can reach {largest}. "
            "Lower its weight or activation bits."
        )


def _finish(
    op: Node, rescale: Rescale | None, builder: QonnxBuilder, sums: str, bias: npt.NDArray[np.int32] | None
) -> None:
    """Add the bias, and requantize unless the accumulators leave the network."""
    accumulator = op.name if rescale is None else f"{op.name}.accumulator"
    offset = builder.constant(f"{op.name}.bias", np.array(0.0 if bias is None else bias, dtype=np.float32))
    builder.node("Add", [sums, offset], accumulator)
    if rescale is None:
        return
    multiplier = rescale.multipliers.as_float32()
    columns: tuple[Any, ...] = (-1, *[1] * (len(op.shape) - 1)) if multiplier.size > 1 else ()
    real = builder.scaled(accumulator, multiplier.reshape(columns), f"{op.name}.real")
    builder.rounded(real, op.name, rescale.low, rescale.high)


add_to_qonnx.register(IntegerAdd, add_streams)
add_to_qonnx.register(IntegerRequantize, rescale_stream)
