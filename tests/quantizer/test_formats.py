# SPDX-License-Identifier: MIT
"""Windows of integers, and where clamps meet them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.errors import SchemeError
from bitwright.graph.nodes import Bounds
from bitwright.quantizer import TensorFormat, clamp_limits, weight_format

WIDTHS = st.sampled_from([*range(2, 9), 16])


@given(WIDTHS, st.data())
def test_a_window_holds_zero_and_what_its_bits_tell_apart(bits: int, data: st.DataObject) -> None:
    """Every window of up to 2**k integers around 0 is a format; one integer more is none."""
    low = data.draw(st.integers(-(2**bits - 1), 0))
    window = TensorFormat(bits, low, low + 2**bits - 1)
    assert window.span == 2**bits - 1
    assert window.negative == (low < 0)
    assert window.magnitude == max(-low, low + 2**bits - 1)
    with pytest.raises(SchemeError, match=rf"at most {2**bits} integers around 0 in {bits} bits"):
        TensorFormat(bits, low, low + 2**bits)


@pytest.mark.parametrize(("bits", "low", "high"), [(4, 1, 5), (4, -5, -1), (1, 0, 1), (17, 0, 1), (0, 0, 0)])
def test_other_windows_are_refused(bits: int, low: int, high: int) -> None:
    """Zero outside, or a width that no tensor has."""
    with pytest.raises(SchemeError, match="expected a"):
        TensorFormat(bits, low, high)


@pytest.mark.parametrize("bits", range(2, 9))
def test_the_usual_formats(bits: int) -> None:
    """Unsigned and symmetric use every code; weights leave the most negative out, but at 2 and 3 bits."""
    assert (TensorFormat.unsigned(bits).quant_min, TensorFormat.unsigned(bits).quant_max) == (0, 2**bits - 1)
    assert TensorFormat.of(bits, negative=True) == TensorFormat(bits, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    assert weight_format(bits).span == 2**bits - (1 if bits <= 3 else 2)


@given(WIDTHS, st.floats(-50, 50), st.floats(0, 100), st.floats(0.01, 10), st.booleans())
def test_limits_are_the_clamped_ends(bits: int, low: float, width: float, scale: float, negative: bool) -> None:
    """Rounding and clamping to the limits is clamping the real value first, then rounding into the format."""
    window, bounds = TensorFormat.of(bits, negative=negative), Bounds(min(low, 0.0), max(low + width, 0.0))
    first, last = clamp_limits(bounds, window, scale)
    for real in (-1e3, -3.3, 0.0, 0.26, 7.0, 1e3):
        expected = min(max(round(bounds.clamp(real) / scale), window.quant_min), window.quant_max)
        assert min(max(round(real / scale), first), last) == expected
