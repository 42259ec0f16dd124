# SPDX-License-Identifier: MIT
"""Formats for tests: every window of integers that a few bits tell apart, symmetric and unsigned ones among them."""

from __future__ import annotations

from hypothesis import strategies as st

from bitwright.quantizer.formats import TensorFormat


@st.composite
def windows(draw: st.DrawFn, least: int = 2, most: int = 8) -> TensorFormat:
    """A format of `least` to `most` bits that uses all of its codes."""
    bits = draw(st.integers(least, most))
    codes = 1 << bits
    low = draw(st.sampled_from([0, -codes // 2, 1 - codes]) | st.integers(1 - codes, 0))
    return TensorFormat(bits, low, low + codes - 1)
