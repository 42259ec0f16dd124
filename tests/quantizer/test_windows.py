# SPDX-License-Identifier: MIT
"""Windows: of all that there are, the one of the smallest step or of the least squared error."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bitwright.quantizer import TensorFormat, full_scale, least_squares_scale, quantize_activation
from bitwright.quantizer.windows import WORTH, least_squares_format, smallest_format, smallest_window


def everywhere(bit_width: int) -> list[TensorFormat]:
    """All windows of a width."""
    return [TensorFormat.starting(bit_width, least) for least in range(1 - (1 << bit_width), 1)]


def squared_error(values: Tensor, scale: float, window: TensorFormat) -> float:
    """Of rounding `values`, in float64."""
    return float((quantize_activation(values.double(), scale, window) - values.double()).square().sum())


@given(st.integers(2, 8), st.floats(-100, 0), st.floats(0, 100))
def test_the_smallest_window_holds_all_in_the_smallest_steps(bit_width: int, low: float, high: float) -> None:
    """No other window that holds both ends has a smaller scale; symmetric formats stay where that gains little."""
    window, scale = smallest_window(low, high, bit_width)
    holding = [
        other for other in everywhere(bit_width) if (other.quant_min or low == 0) and (other.quant_max or high == 0)
    ]
    if low == high == 0:
        assert scale == 0
        return
    assert window in holding
    assert scale == full_scale(low, high, window) == min(full_scale(low, high, other) for other in holding)
    symmetric = TensorFormat.symmetric(bit_width)
    usual = full_scale(low, high, symmetric)
    worth = scale**2 <= WORTH * usual**2
    assert smallest_format(low, high, bit_width) == ((window, scale) if worth else (symmetric, usual))


@pytest.mark.parametrize("bit_width", [2, 3, 4])
@pytest.mark.parametrize("low", [-3.0, -0.8, -0.1, 0.0])
def test_the_least_error_is_that_of_all_windows_and_scales(bit_width: int, low: float) -> None:
    """Sums over sorted values give the error of every window at once: each one is tried by itself."""
    torch.manual_seed(0)
    values = (2 * torch.randn(300)).clamp(low, 3)
    window, scale = least_squares_format(values, bit_width)
    _, full = smallest_window(float(values.min()), float(values.max()), bit_width)
    least = min(
        squared_error(values, full * part / 100, other) for other in everywhere(bit_width) for part in range(1, 101)
    )
    symmetric = TensorFormat.symmetric(bit_width)
    usual = squared_error(values, least_squares_scale(values, symmetric), symmetric)
    if least > 1.001 * WORTH * usual:
        assert window == symmetric
    elif least < 0.999 * WORTH * usual:
        assert squared_error(values, scale, window) == pytest.approx(least, rel=1e-6)


def test_a_clamp_just_below_zero_has_all_its_codes() -> None:
    """clamp(x, -0.1, 3) at 4 bits: 16 codes, where the symmetric format leaves 8."""
    torch.manual_seed(0)
    values = (2 * torch.randn(2**14)).clamp(-0.1, 3)
    symmetric = TensorFormat.symmetric(4)
    usual = least_squares_scale(values, symmetric)
    window, scale = least_squares_format(values, 4)
    assert [len(quantize_activation(values, *found).unique()) for found in ((scale, window), (usual, symmetric))] == [
        16,
        8,
    ]
    assert squared_error(values, scale, window) < squared_error(values, usual, symmetric) / 1.5


@pytest.mark.parametrize("bit_width", range(3, 9))
@pytest.mark.parametrize("slope", [0.01, 0.1])
def test_leaky_relu_loses_no_bit(bit_width: int, slope: float) -> None:
    """Its window has no more error than the symmetric format of nearly one bit more."""
    torch.manual_seed(0)
    values = F.leaky_relu(torch.randn(2**14), slope)
    window, scale = least_squares_format(values, bit_width)
    more = TensorFormat.symmetric(min(bit_width + 1, 16))
    wider = squared_error(values, least_squares_scale(values, more), more)
    assert squared_error(values, scale, window) < 1.6 * wider
    codes = quantize_activation(values, scale, window).div(scale).round()
    assert (int(codes.min()), int(codes.max())) == (window.quant_min, window.quant_max)


@pytest.mark.parametrize("bit_width", range(2, 9))
def test_symmetric_values_keep_the_symmetric_format(bit_width: int) -> None:
    """Format and scale are those of symmetric quantization where both sides are alike."""
    torch.manual_seed(0)
    values = torch.randn(2**14)
    symmetric = TensorFormat.symmetric(bit_width)
    assert least_squares_format(values, bit_width) == (symmetric, least_squares_scale(values, symmetric))
    assert least_squares_format(torch.zeros(4), bit_width) == (symmetric, 1.0)


@pytest.mark.parametrize("bit_width", [2, 4, 8])
def test_what_is_left_out_as_hopeless_is_not_the_best(bit_width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Searches that try every scale find the same, whatever the tails."""
    torch.manual_seed(1)
    tensors = [torch.randn(2000), torch.randn(2000) ** 3, torch.randn(2000).relu(), F.silu(3 * torch.randn(2000))]
    formats = [TensorFormat.symmetric(bit_width), TensorFormat.unsigned(bit_width)]

    def found() -> list[object]:
        scales = [least_squares_scale(values, window) for values in tensors for window in formats]
        return [*scales, *(least_squares_format(values, bit_width) for values in tensors)]

    at_once = found()
    for search in (least_squares_scale, least_squares_format):
        monkeypatch.setattr(sys.modules[search.__module__], "_PATIENCE", 1000)
    assert found() == at_once
