# SPDX-License-Identifier: MIT
"""The ONNX graph of an integer model while it grows: formats, zero points, and how weights are stored."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from bitwright.errors import ExportError
from bitwright.export.onnx.graph import OnnxGraph
from bitwright.export.pixels import Pixels
from bitwright.export.target import Target
from bitwright.graph.nodes import MaxPool2d
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import IntegerConv2d, IntegerLayer
from bitwright.integer.proof.bounds import SATURATING_SUM, largest_pair_sum
from bitwright.integer.proof.ranges import Range, tensor_ranges
from bitwright.integer.quant_params import QuantParams
from bitwright.quantizer.formats import MAX_TENSOR_BITS, UNCLAMPED_BITS
from bitwright.scheme import MAX_BITS

WORDS: Mapping[int, tuple[int, int]] = {TensorProto.INT16: (-(2**15), 2**15 - 1), TensorProto.UINT16: (0, 2**16 - 1)}
"""Types of tensors of 9 to 16 bits, and their limits."""


class Weight(NamedTuple):
    """A weight tensor in the graph: the name of its values, and of its zero points' (one for each channel, or one for all)."""

    values: str
    zeros: str
    zero: str


class Unrounded(NamedTuple):
    """The tensor of a layer before it is rounded to [low, high], where a max pool alone reads it.

    Attributes:
        real: float32 numbers, whose maxima are those of the layer, before they are multiplied.
        multiplier: A constant for each channel that they are multiplied by, or nothing.
        low: Smallest integer.
        high: Largest integer.
    """

    real: str
    multiplier: str
    low: int
    high: int


@dataclass
class OnnxBuilder(OnnxGraph):
    """The graph of an integer model so far.

    Attributes:
        model: What is exported.
        target: The CPUs that it must be exact on.
        pixels: How images were normalised, if the file takes pixels.
        casts: Tensors of another type that were made once for all that read them.
        unrounded: Layers that are rounded behind the max pool that reads them.
    """

    model: IntegerModel = field(kw_only=True)
    target: Target = field(kw_only=True, default=Target.ANY)
    pixels: Pixels | None = field(kw_only=True, default=None)
    casts: set[str] = field(kw_only=True, default_factory=set)
    unrounded: dict[str, Unrounded] = field(kw_only=True, default_factory=dict)

    @cached_property
    def ranges(self) -> dict[str, Range]:
        """How far the integers of every tensor reach."""
        return tensor_ranges(self.model)

    def is_pooled(self, name: str) -> bool:
        """Whether a max pool is all that reads a tensor."""
        readers = [op for op in self.model if name in op.inputs]
        returned = any(output.tensor == name for output in self.model.outputs.values())
        return not returned and len(readers) == 1 and isinstance(readers[0], MaxPool2d)

    def zero(self, name: str) -> str:
        """The zero point of an activation, for the operators on bytes.

        Raises:
            ExportError: If a byte does not hold the tensor's integers.
        """
        params = self.model.formats.get(name)
        if params is None or params.bit_width > MAX_BITS:
            got = "accumulators" if params is None else f"{params.bit_width} bits"
            raise ExportError(
                f"'{name}': expected at most {MAX_BITS} bits where ONNX's operators read or write bytes, got {got}. "
                "Requantize the tensor first, as `bitwright lower` does."
            )
        point = zero_point(params)
        return self.constant(f"zero.{point}", np.array(point, dtype=np.uint8))

    def stored_zero(self, name: str) -> str:
        return self.zero(name) if self.element_type(name) == TensorProto.UINT8 else ""

    def exceeds_byte(self, name: str) -> bool:
        """Whether a tensor has more than 8 bits: then it is stored without a zero point."""
        params = self.model.formats.get(name)
        return params is not None and params.bit_width > MAX_BITS

    def element_type(self, name: str) -> int:
        """The element type of a tensor."""
        params = self.model.formats.get(name)
        if params is None:
            return int(TensorProto.INT32)
        if params.bit_width <= MAX_BITS:
            return int(TensorProto.UINT8)
        if params.bit_width == UNCLAMPED_BITS:
            return int(TensorProto.DOUBLE)
        for kind, (low, high) in WORDS.items():
            if low <= params.quant_min and params.quant_max <= high:
                return kind
        return int(TensorProto.FLOAT)

    def stored(self, integers: npt.NDArray[np.integer[Any]], name: str) -> npt.NDArray[Any]:
        """Integers as the tensor of that name stores its own."""
        point = 0 if self.exceeds_byte(name) else zero_point(self.model.formats[name])
        return (integers + point).astype(helper.tensor_dtype_to_np_dtype(self.element_type(name)))

    def cast(self, source: str, kind: int) -> str:
        """An integer tensor, or the accumulators of one, as another type; once for all that read it."""
        if self.element_type(source) == kind:
            return source
        output = f"{source}.{TensorProto.DataType.Name(kind).lower()}"
        if output not in self.casts:
            self.casts.add(output)
            if self.element_type(source) == TensorProto.UINT8:  # whose zero point the integers do without
                source = self.real(source, 1.0, output if kind == TensorProto.FLOAT else f"{source}.integers")
            if source != output:
                self.node("Cast", [source], output, to=kind)
        return output

    def clamped(self, output: str, params: QuantParams, low: int, high: int, make: Callable[[str], object]) -> None:
        """Call `make` with the name of a uint8 result, which is clamped where uint8's own limits are not [low, high]."""
        limits = (low + zero_point(params), high + zero_point(params))
        if limits == (0, 255):
            make(output)
            return
        make(f"{output}.unclamped")
        bounds = [self.constant(f"uint8.{limit}", np.array(limit, dtype=np.uint8)) for limit in limits]
        self.node("Clip", [f"{output}.unclamped", *bounds], output)

    def real(self, source: str, scale: float, output: str) -> str:
        """`source * scale` as float32, for an integer tensor of any width."""
        if self.element_type(source) in WORDS:
            return self.node("DequantizeLinear", [source, self.scalar(scale)], output)
        if self.exceeds_byte(source):
            return self.node("Mul", [self.cast(source, TensorProto.FLOAT), self.scalar(scale)], output)
        return self.node("DequantizeLinear", [source, self.scalar(scale), self.zero(source)], output)

    def rounded(self, real: str, output: str, low: int, high: int) -> None:
        """`clamp(round_half_even(real), low, high)` as the integer tensor `output`, in its format."""
        if not self.exceeds_byte(output):
            self.quantized(real, 1.0, output, low, high)
            return
        kind = self.element_type(output)
        if kind in WORDS:
            if (low, high) != WORDS[kind]:  # whole numbers, so that clamping before rounding is the same as after
                real = self.node("Clip", [real, self.scalar(low), self.scalar(high)], f"{output}.clamped")
            zero = self.constant(f"zero.word.{kind}", np.array(0, dtype=helper.tensor_dtype_to_np_dtype(kind)))
            self.node("QuantizeLinear", [real, self.scalar(1.0), zero], output)
            return
        if kind != TensorProto.FLOAT:
            raise ExportError(
                f"'{output}': expected at most {MAX_TENSOR_BITS} bits, which float32 holds, got "
                f"{self.model.formats[output].bit_width}. Requantize the tensor first, as `bitwright lower` does."
            )
        self.node("Round", [real], f"{output}.rounded")
        self.node("Clip", [f"{output}.rounded", self.scalar(low), self.scalar(high)], output)

    def quantized(self, real: str, scale: float, output: str, low: int, high: int) -> None:
        """`clamp(round_half_even(real / scale), low, high)` as the bytes `output`."""
        operands = [real, self.scalar(scale), self.zero(output)]
        params = self.model.formats[output]
        self.clamped(output, params, low, high, lambda made: self.node("QuantizeLinear", operands, made))

    def weight(self, op: IntegerLayer, values: npt.NDArray[np.int8], *, unsigned: bool = False) -> Weight:
        """An INT8 tensor, stored as INT4 where its width allows, or an unsigned one where INT8 is not exact on every CPU.

        Args:
            op: The layer.
            values: Its weights, in the layout of the operator.
            unsigned: Whether the operator has its fast kernels for unsigned weights.
        """
        channels, name = len(op.bias), f"{op.name}.weight"
        if not (unsigned or (self.target is Target.ANY and saturates(op, self.model))):
            if op.weight_bits > 4:
                return self._int8(self.constant(name, values), channels)
            return self._int8(self._four_bits(name, values, TensorProto.INT4, TensorProto.INT8), channels)
        point = unsigned_zero(op)
        shifted = (values.astype(np.int16) + point).astype(np.uint8)
        if op.weight_bits > 4:
            self.constant(name, shifted)
        else:
            self._four_bits(name, shifted, TensorProto.UINT4, TensorProto.UINT8)
        zeros = self.constant(f"zeros.{channels}.uint8.{point}", np.full(channels, point, dtype=np.uint8))
        return Weight(name, zeros, self.constant(f"zero.{point}", np.array(point, dtype=np.uint8)))

    def _four_bits(self, name: str, values: npt.NDArray[np.int8 | np.uint8], stored: int, used: int) -> str:
        """Two weights in a byte; engines cast them at load."""
        packed = f"{name}_{TensorProto.DataType.Name(stored).lower()}"
        data = _pack_int4(values).tobytes()
        self.constants[packed] = helper.make_tensor(packed, stored, values.shape, data, raw=True)
        return self.node("Cast", [packed], name, to=used)

    def shared_weight(self, op: IntegerConv2d) -> Weight:
        """The weights of a sum over windows, which all of its kind use."""
        channels, _, *kernel = op.weight.shape
        return self._int8(self.constant(f"ones.{channels}.{kernel[0]}.{kernel[1]}", op.weight), channels)

    def _int8(self, values: str, channels: int) -> Weight:
        zeros = self.constant(f"zeros.{channels}", np.zeros(channels, dtype=np.int8))
        return Weight(values, zeros, self.constant("zero.int8", np.array(0, dtype=np.int8)))


def zero_point(params: QuantParams) -> int:
    """What uint8 value stands for zero: the format's smallest integer is stored as 0."""
    return -params.quant_min


def unsigned_zero(op: IntegerLayer) -> int:
    """The zero point of weights stored without signs: the smallest integer is stored as 0."""
    return max(0, -int(op.weight.min()))


def saturates(op: IntegerLayer, model: IntegerModel) -> bool:
    """Whether two products of `op` can exceed 16 bits."""
    return largest_pair_sum(op.weight, model.formats[op.inputs[0]]) > SATURATING_SUM


def _pack_int4(weight: npt.NDArray[np.int8 | np.uint8]) -> npt.NDArray[np.uint8]:
    """Two values in a byte, the first in the low half, as ONNX stores INT4 and UINT4."""
    flat = np.zeros(prod(weight.shape) + prod(weight.shape) % 2, dtype=np.uint8)
    flat[: prod(weight.shape)] = weight.reshape(-1).view(np.uint8) & 0x0F
    return (flat[0::2] | (flat[1::2] << 4)).astype(np.uint8)
