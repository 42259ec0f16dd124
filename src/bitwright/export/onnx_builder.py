# SPDX-License-Identifier: MIT
"""The ONNX graph of an integer model while it grows: formats, zero points, and how weights are stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from onnx import TensorProto, helper

from bitwright.export.onnx_graph import OnnxGraph
from bitwright.export.pixels import Pixels
from bitwright.export.target import Target
from bitwright.graph.nodes import Pair
from bitwright.integer.bounds import SATURATING_SUM, largest_pair_sum
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import IntegerConv2d, IntegerLinear
from bitwright.integer.quant_params import QuantParams
from bitwright.scheme import MAX_BITS

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
    pixels: Pixels | None = field(kw_only=True, default=None)

    def zero(self, params: QuantParams) -> str:
        """The zero point of an activation."""
        point = zero_point(params)
        return self.constant(f"zero.{point}", np.array(point, dtype=np.uint8))

    def wide(self, name: str) -> bool:
        """Whether a tensor has more than 8 bits: then float32 numbers carry its integers."""
        params = self.model.formats.get(name)
        return params is not None and params.bit_width > MAX_BITS

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
        if self.wide(source):
            return self.node("Mul", [source, self.scalar(scale)], output)
        zero = self.zero(self.model.formats[source])
        return self.node("DequantizeLinear", [source, self.scalar(scale), zero], output)

    def rounded(self, real: str, output: str, low: int, high: int) -> None:
        """`clamp(round_half_even(real), low, high)` as the integer tensor `output`, in its format."""
        params = self.model.formats[output]
        if params.bit_width > MAX_BITS:
            self.node("Round", [real], f"{output}.rounded")
            self.node("Clip", [f"{output}.rounded", self.scalar(low), self.scalar(high)], output)
            return
        operands = [real, self.scalar(1.0), self.zero(params)]
        self.clamped(output, params, low, high, lambda made: self.node("QuantizeLinear", operands, made))

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
                self.constant(f"zero.{UINT8_ZERO}", np.array(UINT8_ZERO, dtype=np.uint8)),
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


def saturates(op: IntegerConv2d | IntegerLinear, model: IntegerModel) -> bool:
    """Whether two products of `op` can exceed 16 bits."""
    return largest_pair_sum(op.weight, model.formats[op.inputs[0]]) > SATURATING_SUM


def _pack_int4(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """Two values in a byte, the first in the low half, as ONNX stores INT4."""
    flat = np.zeros(prod(weight.shape) + prod(weight.shape) % 2, dtype=np.uint8)
    flat[: prod(weight.shape)] = weight.reshape(-1).view(np.uint8) & 0x0F
    return (flat[0::2] | (flat[1::2] << 4)).astype(np.uint8)
