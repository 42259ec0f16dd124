# SPDX-License-Identifier: MIT
"""Perturbations and scales of weights against literal twins, in Python's own numbers."""

from __future__ import annotations

import math
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bitwright.quantizer import quantize_weight, weight_format, weight_scale
from bitwright.sensitivity import weight_perturbation, weight_perturbations
from bitwright.training import Ranges
from bitwright.training.quantizers import QuantizerSettings, WeightQuantizer


def twin(weight: Tensor, scale: Tensor, bit_width: int) -> float:
    """The squared error, number by number."""
    low, high = weight_format(bit_width).quant_min, weight_format(bit_width).quant_max
    total = 0.0
    for row, step in zip(weight.flatten(1).tolist(), scale.tolist(), strict=True):
        for value in row:
            total += (min(max(round(value / step), low), high) * step - value) ** 2
    return total


def weights(shape: tuple[int, ...] = (6, 5, 3, 3)) -> Tensor:
    """Channels of unlike size, one of zeros, one with an outlier, one without negative weights."""
    weight = torch.randn(shape, dtype=torch.float64) * torch.logspace(-2, 2, shape[0], dtype=torch.float64).reshape(
        -1, *[1] * (len(shape) - 1)
    )
    weight[1] = 0
    weight[2].view(-1)[0] = 50
    weight[3] = weight[3].abs()
    return weight


@pytest.mark.parametrize("method", ["max", "mse"])
@pytest.mark.parametrize("bit_width", range(2, 9))
def test_perturbation_is_the_squared_error(bit_width: int, method: str) -> None:
    """The sum over all weights, each rounded to its channel's scale."""
    weight = weights()
    scale = weight_scale(weight, bit_width, method)
    expected = twin(weight, scale, bit_width)
    assert math.isclose(weight_perturbation(weight, bit_width, method), expected, rel_tol=1e-9)
    assert weight_perturbations(weight, [bit_width], method) == {
        bit_width: weight_perturbation(weight, bit_width, method)
    }


@pytest.mark.parametrize("bit_width", [2, 3, 4, 8])
def test_mse_scales_are_the_best_of_all_tried(bit_width: int) -> None:
    """No clipping point between a twentieth of the largest weight and itself does better, to the width of the grid."""
    weight = weights((6, 40))
    scale = weight_scale(weight, bit_width, "mse")
    largest = weight_scale(weight, bit_width, "max")
    fractions = [step / 100 for step in range(5, 20)] + [step / 100 for step in range(20, 101)]
    for channel in range(6):
        row = weight[channel : channel + 1]
        errors = [twin(row, largest[channel : channel + 1] * fraction, bit_width) for fraction in fractions]
        assert twin(row, scale[channel : channel + 1], bit_width) <= min(errors) * (1 + 1e-6)


@pytest.mark.parametrize("bit_width", [2, 4, 8])
@pytest.mark.parametrize("tail", [1, 3])
def test_a_large_layer_is_searched_in_groups_with_the_same_result(
    bit_width: int, tail: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the memory at hand nor what is left out as hopeless changes the scales, whatever the tails."""
    weight = torch.cat([weights().float(), weights().float() ** tail])
    module = sys.modules[weight_scale.__module__]
    at_once = weight_scale(weight, bit_width)
    for name, value in (("_CHUNK", 1), ("_CACHED", 1), ("_remembered", {})):
        monkeypatch.setattr(module, name, value)
    assert torch.equal(weight_scale(weight, bit_width), at_once)
    for name, value in (("_PATIENCE", 1000), ("_remembered", {})):
        monkeypatch.setattr(module, name, value)
    assert torch.equal(weight_scale(weight, bit_width), at_once)


def test_scales_of_the_same_weights_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For each width and content: what was changed in place, or what a caller does with its scales, counts; few are kept."""
    module = sys.modules[weight_scale.__module__]
    search, found = module._least_squares, []
    monkeypatch.setattr(module, "_remembered", {})
    monkeypatch.setattr(module, "_REMEMBERED", 2)
    monkeypatch.setattr(module, "_least_squares", lambda *given: found.append(given) or search(*given))
    weight = weights().float()
    first = weight_scale(weight, 4)
    weight_scale(weight.clone(), 4).zero_()
    assert torch.equal(weight_scale(weight, 4), first)
    assert len(found) == 1
    assert not torch.equal(weight_scale(weight.mul_(2), 4), first)
    weight_scale(weight, 3)
    assert len(found) == 3
    assert torch.equal(weight_scale(weight.div_(2), 4), first)
    assert len(found) == 4
    assert len(module._remembered) == 2


@given(
    st.lists(st.floats(-1000, 1000, allow_nan=False, width=32), min_size=1, max_size=12),
    st.integers(2, 8),
    st.sampled_from(["max", "mse"]),
)
def test_integers_stay_in_range_and_zero_stays_zero(row: list[float], bit_width: int, method: str) -> None:
    """Every integer lies in the range of its width; zero is exact; `max` errs by at most half a step."""
    weight = torch.tensor([[0.0, *row]], dtype=torch.float64)
    scale = weight_scale(weight, bit_width, method)
    integers = quantize_weight(weight, scale, bit_width)
    low, high = weight_format(bit_width).quant_min, weight_format(bit_width).quant_max
    assert float(scale) > 0
    assert integers[0, 0] == 0
    assert low <= float(integers.min())
    assert float(integers.max()) <= high
    assert torch.equal(integers, integers.round())
    if method == "max":
        assert float((integers * scale - weight).abs().max()) <= float(scale) * (0.5 + 1e-9)


@pytest.mark.parametrize(("ranges", "method"), [(Ranges.LEARNED, "mse"), (Ranges.FIXED, "mse"), (Ranges.EMA, "max")])
def test_perturbation_is_that_of_the_quantizer(ranges: Ranges, method: str) -> None:
    """What the table says is what the quantizer does once it is calibrated, range mode by range mode."""
    weight = weights().float()
    for bit_width in range(2, 9):
        quantizer = WeightQuantizer(len(weight), bit_width, QuantizerSettings(ranges=ranges))
        quantizer.calibrate(weight)
        with torch.no_grad():
            integers, scale = quantizer.eval()(weight)
        moved = float((integers * scale.reshape(-1, 1, 1, 1) - weight).double().square().sum())
        assert math.isclose(weight_perturbation(weight, bit_width, method), moved, rel_tol=1e-6)
