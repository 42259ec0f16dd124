# SPDX-License-Identifier: MIT
"""The OpenVINO graph of an integer model while it grows: which kernel each layer runs on, and how its weights are stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import ExportError, LoweringError
from bitwright.export.openvino.kernels import DOUBLED, INT8, PARTS, kernel, least_byte, may_be_matrix_products
from bitwright.export.pixels import Pixels
from bitwright.export.target import Target
from bitwright.extras import require
from bitwright.graph.nodes import Node
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import Accumulate, IntegerConv2d, IntegerLayer, Rescale
from bitwright.integer.packing import pack
from bitwright.integer.proof.bounds import FLOAT32_EXACT

Value = Any
"""An output of an OpenVINO node; the package has no type information for its operations."""


@dataclass
class OpenvinoBuilder:
    """The graph so far.

    Attributes:
        model: What is exported.
        target: The CPUs that it must be exact on.
        pixels: How images were normalised, if the file takes pixels.
        values: Every tensor, as float32 numbers that are integers.
        kernels: What each layer runs on.
    """

    model: IntegerModel
    target: Target
    pixels: Pixels | None
    values: dict[str, Value] = field(default_factory=dict)
    kernels: dict[str, str] = field(default_factory=dict)
    _bytes: dict[str, Value] = field(default_factory=dict)

    @cached_property
    def openvino(self) -> Any:
        """The package."""
        require("openvino", "OpenVINO's format")
        return import_module("openvino")

    @cached_property
    def ops(self) -> Any:
        """The operations that the files are made of."""
        _ = self.openvino
        return import_module("openvino.opset15")

    def floats(self, values: npt.ArrayLike) -> Value:
        """A float32 constant."""
        return self.ops.constant(np.asarray(values, dtype=np.float32))

    def integers(self, *values: int) -> Value:
        """An int64 vector."""
        return self.ops.constant(np.array(values, dtype=np.int64))

    def multiplier(self, op: Node, rescale: Rescale) -> npt.NDArray[np.float32]:
        """The proved ratios of a layer, exact in float32; 31-bit ones without such an equal are refused."""
        try:
            return rescale.multipliers.as_float32()
        except LoweringError as error:
            raise ExportError(
                f"OpenVINO computes '{op.name}' in float32, having neither float64 nor int64 on CPUs: {error} "
                "Use the engine onnx, tvm or litert."
            ) from error

    def rounded(self, real: Value, low: int, high: int) -> Value:
        """`clamp(round_half_even(real), low, high)`."""
        return self.ops.clamp(self.ops.round(real, "half_to_even"), float(low), float(high))

    def fenced(self, sums: Value) -> Value:
        """The same sums, which OpenVINO can no longer move a multiplication across.

        Left to itself it turns `(sum + bias) * s` into `sum * s + bias * s`, or multiplies the weights by s: both round more than
        once. It clamps only sums whose results are clamped all the same; see `theorems.clamped_beyond_float32`.
        """
        return self.ops.clamp(sums, -float(FLOAT32_EXACT), float(FLOAT32_EXACT))

    def unfused(self, sums: Value) -> Value:
        """The same sums, which no kernel for bytes multiplies any more; see `may_be_matrix_products`.

        Numbers within 2**24 are the same in int32 and in float32.
        """
        return self.ops.convert(self.ops.convert(sums, "i32"), "f32")

    def bytes_of(self, name: str) -> Value:
        """A tensor of at most 8 bits, marked as bytes for the layers that multiply these.

        Its numbers are integers from 0 to 255, or from -128 to 127, already: this quantization changes none, however OpenVINO
        evaluates it.
        """
        if name not in self._bytes:
            low = least_byte(self.model.formats[name])
            limits = [self.floats(limit) for limit in (low, low + 255, low, low + 255)]
            self._bytes[name] = self.ops.fake_quantize(self.values[name], *limits, 256)
        return self._bytes[name]

    @cached_property
    def stored_as_bytes(self) -> frozenset[str]:
        """The tensors that layers read as bytes."""
        layers = self.model.layers().values()
        return frozenset(op.inputs[0] for op in layers if self.kernel(op) in (INT8, DOUBLED))

    def addend(self, name: str) -> Value:
        """A tensor as additions read it: as bytes, if a layer reads these as well, so that nothing else of it is stored."""
        if name not in self.stored_as_bytes:
            return self.values[name]
        value = self.bytes_of(name)
        if any(op.name == name and isinstance(op, IntegerConv2d) for op in self.model):
            # Or else the addition would be part of the convolution, and nothing be rounded between them.
            value = self.ops.max_pool(value, [1, 1], [1, 1], [0, 0], [0, 0], [1, 1], "floor").output(0)
        return self.from_bytes(name, value)

    def from_bytes(self, name: str, value: Value) -> Value:
        """The numbers of a tensor that is `value` in bytes, for operations other than layers.

        Behind the clamp, which clamps nothing, they are ordinary numbers: of two marked operands of an addition, OpenVINO
        would divide one's multiplier by the other's.
        """
        self._bytes.setdefault(name, value)
        params = self.model.formats[name]
        return self.ops.clamp(value, float(params.quant_min), float(params.quant_max))

    def kernel(self, op: IntegerLayer) -> str:
        """What a layer runs on, which the file states."""
        return self.kernels.setdefault(op.name, kernel(op, self.model, self.target))

    def weight(self, op: IntegerLayer, values: npt.NDArray[np.int8]) -> Value:
        """A weight tensor, stored in 4 bits where its width allows, else in 8, as the float32 numbers that OpenVINO expects.

        Args:
            op: The layer.
            values: [outputs, inputs, height, width], or [groups, outputs / groups, inputs / groups, height, width].
        """
        if op.weight_bits <= 4:
            # A tensor made from an array would share its memory, and outlive it.
            packed = self.openvino.Tensor(self.openvino.Type.i4, self.openvino.Shape(list(values.shape)))
            packed.data.reshape(-1)[:] = pack(values, 4, signed=True)
            stored = self.ops.convert(self.ops.constant(packed), "i8")
        else:
            stored = self.ops.constant(np.ascontiguousarray(values))
        if self.kernels[op.name] == DOUBLED:
            stored = self._halves(stored)
        real = self.ops.convert(stored, "f32")
        if self.kernels[op.name] not in (INT8, DOUBLED):
            return real
        # Scales of 1, one for each output, tell OpenVINO that these are quantized weights.
        ones = np.ones((*values.shape[:-3], 1, 1, 1))
        return self.ops.multiply(real, self.floats(ones))

    def _halves(self, stored: Value) -> Value:
        """Weights w as floor(w / 2) and the rest, of at most 64 each, behind one another: computed when the file is loaded."""
        whole, two = self.ops.convert(stored, "i32"), self.ops.constant(np.int32(2))
        odd = self.ops.floor_mod(whole, two)
        half = self.ops.divide(self.ops.subtract(whole, odd), two)
        return self.ops.convert(self.ops.concat([half, self.ops.add(half, odd)], 1), "i8")

    def rescaled(self, op: Accumulate, sums: Value) -> Value:
        """Requantize, unless the accumulators leave the network."""
        rescale = op.rescale
        if rescale is None:
            return sums
        kernel = self.kernels.get(op.name)
        # The conversion of int32 rounds as the certificate says; no multiplication crosses it either.
        sums = self.ops.convert(sums, "f32") if kernel == PARTS else self.fenced(sums)
        if kernel in (INT8, DOUBLED) and may_be_matrix_products(op):
            sums = self.unfused(sums)
        multiplier = self.multiplier(op, rescale)
        real = self.ops.multiply(
            sums, self.floats(multiplier.reshape(1, -1, 1, 1) if multiplier.size > 1 else multiplier[0])
        )
        return self.rounded(real, rescale.low, rescale.high)
