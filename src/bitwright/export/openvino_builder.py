# SPDX-License-Identifier: MIT
"""The OpenVINO graph of an integer model while it grows: which kernel each layer runs on, and how its weights are stored."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from importlib import import_module
from importlib.util import find_spec
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import ExportError, LoweringError
from bitwright.export.onnx_builder import saturates
from bitwright.export.pixels import Pixels
from bitwright.export.target import Target
from bitwright.graph.nodes import Node
from bitwright.integer.bounds import FLOAT32_EXACT, largest_sum
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import IntegerConv2d, IntegerLinear, Rescale
from bitwright.integer.packing import pack
from bitwright.scheme import MAX_BITS

Value = Any
"""An output of an OpenVINO node; the package has no type information for its operations."""

INT8, FLOAT32, PARTS = "int8", "float32", "float32, in parts"


@dataclass
class OpenvinoBuilder:
    """The graph so far.

    Attributes:
        model: What is exported.
        target: The CPUs that it must be exact on.
        pixels: How images were normalised, if the file takes pixels.
        values: Every tensor, as float32 numbers that are integers.
        kernels: By layer: `INT8`, `FLOAT32` or `PARTS`.
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
        if find_spec("openvino") is None:
            raise ExportError("openvino is not installed: pip install 'bitwright[openvino]'.")
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
        once. No sum is clamped, since all are within 2**24.
        """
        return self.ops.clamp(sums, -float(FLOAT32_EXACT), float(FLOAT32_EXACT))

    def unfused(self, sums: Value) -> Value:
        """The same sums, which no kernel for bytes multiplies any more; see `may_be_matrix_products`.

        Numbers within 2**24 are the same in int32 and in float32.
        """
        return self.ops.convert(self.ops.convert(sums, "i32"), "f32")

    def bytes_of(self, name: str) -> Value:
        """A tensor of at most 8 bits that is not negative, marked as uint8 for the layers that multiply bytes.

        Its numbers are integers from 0 to 255 already, so this quantization changes none, however OpenVINO evaluates it.
        Additions read the unmarked tensor: of a marked one, OpenVINO would divide one operand's multiplier by the other's.
        """
        if name not in self._bytes:
            limits = [self.floats(limit) for limit in (0, 255, 0, 255)]
            self._bytes[name] = self.ops.fake_quantize(self.values[name], *limits, 256)
        return self._bytes[name]

    def kernel(self, op: IntegerConv2d | IntegerLinear) -> str:
        """What a layer runs on.

        Bytes, where no two products of the target's kernels saturate and float32 holds the sums; else float32 numbers, where it
        holds every partial sum; else parts of the sum in float32, added as int32.
        """
        params = self.model.formats[op.inputs[0]]
        exact = largest_sum(op.weight, op.bias, params) <= FLOAT32_EXACT
        safe = self.target is Target.VNNI or not saturates(op, self.model)
        if exact and safe and not params.signed and params.bit_width <= MAX_BITS:
            return INT8
        return FLOAT32 if exact else PARTS

    def weight(self, op: IntegerConv2d | IntegerLinear, values: npt.NDArray[np.int8]) -> Value:
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
        real = self.ops.convert(stored, "f32")
        if self.kernels[op.name] != INT8:
            return real
        # Scales of 1, one for each output, tell OpenVINO that these are quantized weights.
        ones = np.ones((*values.shape[:-3], 1, 1, 1))
        return self.ops.multiply(real, self.floats(ones))


def may_be_matrix_products(op: Node) -> bool:
    """Whether a layer of bytes can run as matrix products, whose kernel misreads multipliers by channel where it takes them in.

    From the 9th channel on (the 17th with AVX-512) it multiplies by the first channel's, in each group of its own. OpenVINO
    2026.4.1 (oneDNN 3.13) runs grouped convolutions so where the channels of a group are no multiple of 4, on every CPU, and
    layers whose result is one pixel at batch 1 on CPUs with AVX-512. The others have kernels of their own.
    """
    grouped = isinstance(op, IntegerConv2d) and op.groups > 1 and op.weight.shape[1] > 1
    return grouped or prod(op.shape[1:]) == 1
