# SPDX-License-Identifier: MIT
"""IntegerModel to ONNX with QuantizeLinear and DequantizeLinear around float operators, as TensorRT, CUDA and others read it.

The usual QDQ file leaves it to the engine to make one number of three scales, and to round where it likes. This one says which
integers are computed (`onnx_float32` says why that is exact without any fusion):

- All scales are 1: a QuantizeLinear rounds and clamps, and a DequantizeLinear changes the type. An engine that multiplies by the
  reciprocal of a scale, or by the product of two, has nothing to round. Additions alone read through their own multipliers,
  `m / 2**shift`, whose sums are exact.
- A layer is DequantizeLinear of image and weights, the convolution with its bias, the multiplication by the proved multipliers
  of its channels, ReLU or Clip, QuantizeLinear. So engines find 8-bit operands; sums in int32 or float32 give the same integers.
- Tensors that int8 holds with zero point 0 are int8, others uint8. Weights are int8, with a scale for each channel. Biases are
  float32, and so are tensors of 16 bits, as in the default form.

TensorRT reads int8 with zero point 0 only: networks quantized with `deploy: tensorrt` in their scheme have no other tensors.

OpenVINO reads the file on its own terms, as it does any QDQ: it moves multipliers across sums and into other scales, and its
kernels of bytes saturate where a CPU lacks dot products. So files say that they are not for it; it has an exporter of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from bitwright.errors import ExportError
from bitwright.export.conditions import conditions
from bitwright.export.names import integer_name
from bitwright.export.onnx.float32 import Float32Graph, add_in_float32, in_float32_multipliers
from bitwright.export.onnx.graph import BATCH, move_in_onnx
from bitwright.export.onnx.outputs import add_real, file_names, output_infos
from bitwright.export.onnx.split import splits_as_json, sums_of
from bitwright.export.onnx.tail import Tail, add_tails
from bitwright.export.pixels import Pixels
from bitwright.export.seal import write_sealed
from bitwright.export.target import Target
from bitwright.graph.nodes import Node
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import IntegerConv2d
from bitwright.integer.quant_params import QuantParams
from bitwright.quantizer.formats import TensorFormat
from bitwright.scheme import MAX_BITS

INT8, UINT8 = np.iinfo(np.int8), np.iinfo(np.uint8)


@dataclass
class QdqBuilder(Float32Graph):
    """The graph of an integer model so far.

    Attributes:
        stored: The quantized tensor and the zero point of each that has one, by name.
    """

    bias_in_convolution = True

    stored: dict[str, tuple[str, str]] = field(kw_only=True, default_factory=dict)

    def rounded(self, real: str, output: str, low: int, high: int) -> None:
        params = self.model.formats[output]
        if params.bit_width > MAX_BITS:
            self.clamped(self.node("Round", [real], f"{output}.rounded"), output, low, high)
            return
        # What is clamped between integers may be rounded before or after.
        limits = INT8 if in_int8(params) else UINT8
        if low == 0 and high == INT8.max == limits.max:
            real = self.node("Relu", [real], f"{output}.relu")
        elif (low, high) != (params.quant_min, params.quant_min + limits.max - limits.min):
            real = self.clamped(real, f"{output}.clamped", low, high)
        self.quantized(real, output)

    def clamped(self, source: str, output: str, low: int, high: int) -> str:
        """`source` between two integers."""
        return self.node("Clip", [source, self.scalar(low), self.scalar(high)], output)

    def quantized(self, real: str, output: str) -> None:
        """A tensor as bytes, and as the float32 integers that the operators read."""
        params = self.model.formats[output]
        kind = np.int8 if in_int8(params) else np.uint8
        point = 0 if in_int8(params) else -params.quant_min
        zero = self.constant(f"zero.{np.dtype(kind).name}.{point}", np.array(point, dtype=kind))
        quantized = self.node("QuantizeLinear", [real, self.scalar(1.0), zero], f"{output}.quantized")
        self.stored[output] = quantized, zero
        self.node("DequantizeLinear", [quantized, self.scalar(1.0), zero], output)

    def quant(self, source: str, output: str, window: TensorFormat, mode: str = "ROUND") -> str:
        if mode == "FLOOR":
            return self.node("Floor", [source], output)
        return self.node("Round", [source], output)

    def weight(self, name: str, values: npt.NDArray[np.int8], bits: int) -> str:
        axis = 0 if values.ndim == 4 else 1
        channels = values.shape[axis]
        scale = self.constant(f"ones.{channels}", np.ones(channels, dtype=np.float32))
        zero = self.constant(f"zeros.{channels}", np.zeros(channels, dtype=np.int8))
        stored = self.constant(f"{name}.weight_int8", values)
        return self.node("DequantizeLinear", [stored, scale, zero], f"{name}.weight", axis=axis)

    def shared_weight(self, op: IntegerConv2d) -> str:
        if op.inputs[0] in self.stored:
            return self.weight(f"{op.name}.ones", op.weight, MAX_BITS)
        return self.constant(f"{op.name}.ones", op.weight.astype(np.float32))

    def real(self, source: str, scale: float, output: str) -> str:
        if source not in self.stored:
            return self.scaled(source, np.array(scale, dtype=np.float32), output)
        quantized, zero = self.stored[source]
        return self.node("DequantizeLinear", [quantized, self.scalar(scale), zero], output)

    def move(self, op: Node) -> None:
        params = self.model.formats.get(op.name)
        if params is None or params.bit_width > MAX_BITS:
            move_in_onnx(op, self)
            return
        moved = replace(op, name=f"{op.name}.moved")
        move_in_onnx(moved, self)
        self.quantized(moved.name, op.name)


def in_int8(params: QuantParams) -> bool:
    """Whether int8 holds a format with zero point 0."""
    return bool(params.quant_min >= INT8.min and params.quant_max <= INT8.max)


def not_for_tensorrt(model: IntegerModel) -> list[str]:
    """The tensors of up to 8 bits that int8 does not hold with zero point 0, as TensorRT wants all of them."""
    return [name for name, params in model.formats.items() if params.bit_width <= MAX_BITS and not in_int8(params)]


def export_qdq(
    model: IntegerModel,
    path: str | Path,
    target: Target | str = Target.ANY,
    pixels: Pixels | None = None,
    tail: Tail = None,
) -> onnx.ModelProto:
    """Write `model` as ONNX in float operators between QuantizeLinear and DequantizeLinear, atomically.

    The graph takes `images` and returns what that of `export_onnx` does.

    Args:
        model: What to export.
        path: The path of the file.
        target: The same for all: the form states integers that any CPU or GPU computes in float32 or int32.
        pixels: How images were normalised in training: the file then takes uint8 pixels; without, normalised float32 images.
        tail: A softmax, log_softmax or sigmoid behind the outputs, as of `export_onnx`.

    Raises:
        ExportError: If sums of parts can exceed 2**24 as well, a multiplier has more bits than float32 holds, or no gain and
            offset give the integers of all pixels.
        UnknownNameError: If there is no such output or tail.
    """
    made = add_tails(to_qdq(model, pixels), model, tail)
    write_sealed(path, made.SerializeToString())
    return made


def to_qdq(model: IntegerModel, pixels: Pixels | None = None) -> onnx.ModelProto:
    """`model` as an ONNX model in QDQ form, checked by ONNX's own checker; see `export_qdq`."""
    model = in_float32_multipliers(model, "the QDQ form")
    builder = QdqBuilder(model=model, pixels=pixels)
    if pixels is not None:
        builder.images = builder.node("Cast", ["images"], "images.float", to=TensorProto.FLOAT)
    for op in model:
        add_in_float32(op, builder)
    inner = builder.make_room(file_names(model))
    for name, output in model.outputs.items():
        source = inner.get(output.tensor, output.tensor)
        builder.node("Cast", [source], integer_name(name), to=TensorProto.INT32)
        add_real(name, output, len(model.output_shapes[name]), builder)
    kind = TensorProto.FLOAT if pixels is None else TensorProto.UINT8
    facts = conditions(model, Target.ANY, pixels)
    facts["form"] = "QuantizeLinear and DequantizeLinear of scale 1 around float32 operators on integers"
    facts["sums"] = sums_of(builder.splits, builder.means)
    facts["split_layers"] = splits_as_json(builder.splits)
    facts["tensorrt"] = tensorrt_words(model)
    facts["openvino"] = "not for it: it computes other integers from such a file; export with --engine openvino"
    return builder.finish(
        model.model,
        [helper.make_tensor_value_info("images", kind, [BATCH, *model.input_shape])],
        output_infos(model),
        facts,
    )


def to_tensorrt(model: IntegerModel) -> onnx.ModelProto:
    """`model` as an ONNX model that TensorRT may read.

    Raises:
        ExportError: If `to_qdq` refuses it, or a tensor of up to 8 bits is none that int8 holds with zero point 0.
    """
    for name in not_for_tensorrt(model):
        params = model.formats[name]
        raise ExportError(
            f"'{name}': TensorRT reads int8 with zero point 0 only, got integers from {params.quant_min} to {params.quant_max}. "
            "Quantize the network with deploy: tensorrt in its scheme."
        )
    return to_qdq(model)


def tensorrt_words(model: IntegerModel) -> str:
    """What a file says of TensorRT, which has not run it."""
    found = not_for_tensorrt(model)
    if not found:
        return "all 8-bit tensors are int8 with zero point 0, as its documentation asks for; not run there"
    return f"not for it: {len(found)} tensors need uint8, first {found[0]}; quantize the network with --deploy tensorrt"
