# SPDX-License-Identifier: MIT
"""What travels through a QuantizedModel: integers with their scale, and the constants that lowering proved."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.quantizer.formats import TensorFormat
from bitwright.quantizer.units import across


@dataclass(frozen=True)
class Quantized:
    """A tensor in integer units.

    Attributes:
        values: Integers, held as floats.
        scale: Shape () or (channels,), or that of `values` without the batch, as `units` has it: `real = scale * values`.
    """

    values: Tensor
    scale: Tensor

    def real(self, kind: torch.dtype | None = None) -> Tensor:
        """The real numbers that the integers stand for, as `kind`; by default, as the scale is."""
        scale = self.scale.to(kind or self.scale.dtype)
        return self.values.to(scale.dtype) * across(scale, self.values.dim() - 1)


@dataclass(frozen=True)
class Certificate:
    """The constants that lowering proved or chose for one node, which the forward pass then uses instead of its own.

    Attributes:
        multipliers: float32, each exactly `b / 2**c`: shape (channels,) or (2,) for an addition.
        weight: Integers of a layer, or None.
        bias: Integers of a layer, or None.
        unit: What one accumulator of a layer is worth, shape (channels,), or None.
        needs_float64: Whether sums can exceed 2**24: then float32 does not hold them.
        format: Format of the node's tensor where lowering chose another than the model's, or None.
        scale: Its scale, shape (), or None.
        table: The integers of a table, float32 [integers of the input's format].
        table_start: The integer that the first of them is of.
    """

    multipliers: Tensor | None = None
    weight: Tensor | None = None
    bias: Tensor | None = None
    unit: Tensor | None = None
    needs_float64: bool = False
    format: TensorFormat | None = None
    scale: Tensor | None = None
    table: Tensor | None = None
    table_start: int = 0
