# SPDX-License-Identifier: MIT
"""An integer model in float32 operators: tensors of integers, and a node of the form's own that rounds and stores each.

What QONNX files and those with QuantizeLinear and DequantizeLinear have in common. All scales are 1: weights and activations are
the model's integers themselves. Convolutions are float32; they give exact integers, in any order of summation, while all their
sums stay within 2**24, which is checked for every layer. Where they may not, the layer becomes two, one for each part of its
weights (`split`), whose float32 sum is the accumulator rounded once. Times the proved multiplier, rounded halves to even, that
is the formula that the certificate is about.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property, singledispatch
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from bitwright.errors import ExportError
from bitwright.export.conditions import for_float32
from bitwright.export.onnx.graph import OnnxGraph
from bitwright.export.onnx.split import BYTE_BITS, SplitLayer, means_in_bytes, split_layers
from bitwright.export.pixels import Pixels
from bitwright.graph.nodes import Node
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import Accumulate, IntegerConv2d, Rescale
from bitwright.integer.proof.float32_multipliers import in_float32
from bitwright.quantizer.formats import MIN_TENSOR_BITS, TensorFormat


@dataclass
class Float32Graph(OnnxGraph, ABC):
    """The graph of an integer model so far.

    Attributes:
        model: What is exported.
        pixels: How images were normalised, if the file takes pixels.
        images: The float32 tensor of images or pixels.
        in_int32: The tensors of accumulators that are int32, and what they are moved to; float32 does all others.
    """

    bias_in_convolution: ClassVar[bool]
    """Whether biases are operands of convolutions, or added behind them."""

    model: IntegerModel = field(kw_only=True)
    pixels: Pixels | None = field(kw_only=True, default=None)
    images: str = field(kw_only=True, default="images")
    in_int32: set[str] = field(kw_only=True, default_factory=set)

    @cached_property
    def splits(self) -> dict[str, SplitLayer]:
        """The layers in two parts."""
        return split_layers(self.model)

    @cached_property
    def means(self) -> list[str]:
        """The averages of tensors in two bytes."""
        return means_in_bytes(self.model)

    @abstractmethod
    def rounded(self, real: str, output: str, low: int, high: int) -> None:
        """`clamp(round_half_even(real), low, high)` as the tensor `output`, in its format."""

    @abstractmethod
    def quant(self, source: str, output: str, window: TensorFormat, mode: str = "ROUND") -> str:
        """Round (halves to even, or down with `mode` FLOOR) and clamp to all the integers that a format's bits tell apart."""

    @abstractmethod
    def weight(self, name: str, values: npt.NDArray[np.int8], bits: int) -> str:
        """A layer's weights in the layout of its operator, as float32 integers that state what they are."""

    @abstractmethod
    def shared_weight(self, op: IntegerConv2d) -> str:
        """The weights of a sum over windows."""

    @abstractmethod
    def real(self, source: str, scale: float, output: str) -> str:
        """A tensor times one number."""

    @abstractmethod
    def move(self, op: Node) -> None:
        """Add what only moves values."""

    def scaled(self, source: str, scale: npt.NDArray[np.float32], output: str) -> str:
        """A tensor times the multipliers of its channels, or one for all."""
        name = self.constant(f"{output}.multiplier", scale)
        return self.node("Mul", [source, name], output)

    def joined(self, high: str, low: str, shift: int, op: Accumulate) -> None:
        """The accumulators `2**shift * high + low` of `op`, rounded once to float32; as logits, the very sums in int32."""
        if op.rescale is None:
            high, low = (self.node("Cast", [term], f"{term}.int32", to=TensorProto.INT32) for term in (high, low))
            factor = self.constant(f"int32.{1 << shift}", np.array(1 << shift, dtype=np.int32))
            self.in_int32.add(op.name)
        else:
            factor = self.scalar(1 << shift)
        self.node("Add", [self.node("Mul", [high, factor], f"{high}.shifted"), low], self.accumulator(op))

    def accumulator(self, op: Accumulate) -> str:
        """The tensor of accumulators: the result itself where they leave the network."""
        return op.name if op.rescale is None else f"{op.name}.accumulator"

    def requantize(self, op: Accumulate) -> None:
        """Requantize, unless the accumulators leave the network."""
        if op.rescale is None:
            return
        multiplier = op.rescale.multipliers.as_float32()
        columns: tuple[Any, ...] = (-1, *[1] * (len(op.shape) - 1)) if multiplier.size > 1 else ()
        real = self.scaled(self.accumulator(op), multiplier.reshape(columns), f"{op.name}.real")
        self.rounded(real, op.name, op.rescale.low, op.rescale.high)

    def in_bytes(self, source: str, high: str, low: str) -> tuple[str, str]:
        """A tensor of 9 to 16 bits as `2**8 * high + low`, both exact."""
        window = self.model.formats[source].format
        low_end, high_end = window.quant_min >> BYTE_BITS, window.quant_max >> BYTE_BITS
        bits = max((high_end - low_end).bit_length(), MIN_TENSOR_BITS)
        fraction = self.scaled(source, np.array(2.0**-BYTE_BITS, np.float32), f"{high}.real")
        self.quant(fraction, high, TensorFormat(bits, low_end, high_end), mode="FLOOR")
        upper = self.scaled(high, np.array(2.0**BYTE_BITS, np.float32), f"{high}.upper")
        rest = self.node("Sub", [source, upper], f"{low}.rest")
        return high, self.quant(rest, low, TensorFormat.unsigned(BYTE_BITS))


def in_float32_multipliers(model: IntegerModel, form: str) -> IntegerModel:
    """`model` with multipliers that are float32 numbers.

    Raises:
        ExportError: If an operation has others, for which no float32 number gives the same integers.
    """
    narrowed = for_float32(model)
    for op in narrowed:
        rescale: Rescale | None = getattr(op, "rescale", None)
        if rescale is not None and not in_float32(rescale):
            raise ExportError(
                f"{form} computes in float32, and no float32 number gives the integers of the 31-bit multipliers of '{op.name}'. "
                "Export as onnx, or lower its float weights with certified multipliers: `bitwright zoo import --float`, then "
                "`bitwright train` and `bitwright lower`."
            )
    return narrowed


@singledispatch
def add_in_float32(op: Node, builder: Float32Graph) -> None:
    """Add one operation."""
    raise ExportError(f"no form in float32 of {type(op).__name__} ('{op.name}').")
