# SPDX-License-Identifier: MIT
"""The ranges of quantized tensors."""

from __future__ import annotations

import dataclasses

import pytest

from bitwright.errors import LoweringError, SchemeError
from bitwright.integer.quant_params import QuantParams
from bitwright.quantizer.formats import TensorFormat


@pytest.mark.parametrize(
    ("bit_width", "signed", "quant_min", "quant_max"),
    [
        (2, True, -2, 1),
        (2, False, 0, 3),
        (4, True, -8, 7),
        (4, False, 0, 15),
        (8, True, -128, 127),
        (8, False, 0, 255),
        (16, True, -32768, 32767),
        (16, False, 0, 65535),
        (32, True, -(2**31), 2**31 - 1),
    ],
)
def test_range(bit_width: int, signed: bool, quant_min: int, quant_max: int) -> None:
    """The range has 2**bit_width integers, around zero or from zero on."""
    params = QuantParams(TensorFormat.of(bit_width, negative=signed), 0.5)
    assert params == (QuantParams.symmetric if signed else QuantParams.unsigned)(bit_width, 0.5)
    assert (params.quant_min, params.quant_max) == (quant_min, quant_max)
    assert params.quant_max - params.quant_min == 2**bit_width - 1


@pytest.mark.parametrize("bit_width", [-1, 0, 1, 17, 31, 33])
def test_refuses_bit_widths(bit_width: int) -> None:
    """Fewer than 2 and more than 16 bits are refused, but for the 32 of sums without a clamp."""
    with pytest.raises(SchemeError, match=f"from 2 to 16, or 32, got {bit_width}"):
        QuantParams(TensorFormat(bit_width, 0, 0), 1.0)


@pytest.mark.parametrize("scale", [0.0, -1.0, float("inf"), float("nan")])
def test_refuses_scales(scale: float) -> None:
    """A scale that stands for no real numbers is refused."""
    with pytest.raises(LoweringError, match="positive, finite scale"):
        QuantParams.symmetric(8, scale)


def test_is_a_value() -> None:
    """Two equal descriptions are equal, and none changes."""
    assert QuantParams.symmetric(8, 0.5) == QuantParams.symmetric(8, 0.5)
    with pytest.raises(dataclasses.FrozenInstanceError):
        QuantParams.symmetric(8, 0.5).scale = 1.0  # type: ignore[misc]
