# SPDX-License-Identifier: MIT
"""Calibration and distillation against their literal definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from bitwright.errors import DataError
from bitwright.graph import capture
from bitwright.quantizer import TensorFormat
from bitwright.scheme import Precision, Scheme
from bitwright.task import classification
from bitwright.training import Calibration, Distillation, calibrate, quantize
from bitwright.training.calibrate import RangeObserver
from graph.networks import Then
from training.small import digits, small_quantized


def observed(signed: bool) -> tuple[RangeObserver, np.ndarray]:
    """An observer that saw 4,000 heavy-tailed numbers in two batches, and the numbers."""
    values = np.random.default_rng(0).standard_t(3, 4000).astype(np.float32)
    values = values if signed else np.abs(values)
    observer = RangeObserver()
    for some in np.split(values, 2):
        observer.update(torch.from_numpy(some))
    return observer, values


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_scales_are_those_of_their_definitions(signed: bool, bits: int) -> None:
    """The extremes reach the ends; a percentile clips its share; least squares is the best of a hundred."""
    observer, values = observed(signed)
    spec = TensorFormat.of(bits, negative=signed)

    def needed(low: float, high: float) -> float:
        return max(high / spec.quant_max, low / spec.quant_min if signed else 0.0)

    full = needed(values.min(), values.max())
    assert observer.scale(spec, Calibration.MINMAX) == pytest.approx(full, rel=1e-6)
    rank = round(len(values) * 0.99)
    low, high = -np.sort(-values)[rank - 1], np.sort(values)[rank - 1]
    found = observer.scale(spec, Calibration.PERCENTILE, 99.0)
    assert found == pytest.approx(needed(min(low, 0), max(high, 0)), rel=1e-6)

    def error(scale: float) -> float:
        rounded = np.clip(np.rint(values / np.float32(scale)), spec.quant_min, spec.quant_max) * np.float32(scale)
        return float(np.square(rounded - values).mean())

    best = observer.scale(spec, Calibration.MSE)
    assert error(best) <= min(error(full * step / 100) for step in range(1, 101)) * (1 + 1e-4)


@pytest.mark.parametrize("side", [2, 4])
@pytest.mark.parametrize("batches", [2, 32, 63])
def test_no_pixel_stands_for_all(side: int, batches: int) -> None:
    """Where the border of every image is a hundredth of the rest, scales are those of the rest, whatever the layout."""
    generator, observer = torch.Generator().manual_seed(0), RangeObserver()
    for _ in range(batches):
        images = torch.randn(64, 32, side, side, generator=generator) / 100
        images[..., 1:, 1:] *= 100
        observer.update(images)
    for bits in (4, 8):
        window, scale = observer.format(bits, Calibration.MSE)
        assert scale * window.quant_min < -2
        assert scale * window.quant_max > 2
        assert observer.scale(TensorFormat.symmetric(bits), Calibration.MSE) * (1 << bits - 1) > 2


def test_calibration_needs_images() -> None:
    """No batch, no scale."""
    with pytest.raises(DataError, match="at least one batch"):
        calibrate(small_quantized(), [])


def test_every_scale_is_set() -> None:
    """No scale keeps its initial value."""
    model = calibrate(small_quantized("W8A8"), [digits().calibration(64)[0]], Calibration.MINMAX)
    scales = [
        float(value) for name, value in model.state_dict().items() if name.endswith(".scale") and "activations." in name
    ]
    assert len(scales) == len(model.activations) > 5
    assert all(0 < scale != 1.0 for scale in scales)


def test_distillation_is_hintons_formula() -> None:
    """The divergence is summed over classes, averaged over images and multiplied by the squared temperature."""
    torch.manual_seed(0)
    teacher, images = nn.Linear(6, 4).requires_grad_(False), torch.randn(5, 6)
    logits, loss = torch.randn(5, 4), torch.tensor(0.7)
    got = Distillation(teacher, alpha=0.3, temperature=2.5).combine(classification(), loss, logits, images)
    total = 0.0
    for student, wanted in zip(logits.double(), teacher(images).double(), strict=True):
        p, q = torch.softmax(wanted / 2.5, 0).tolist(), torch.softmax(student / 2.5, 0).tolist()
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert float(got) == pytest.approx(0.7 * 0.7 + 0.3 * 2.5**2 * total / 5, rel=1e-5)


def test_values_that_are_not_finite_are_refused_by_name() -> None:
    """An overflow of float32 would give a scale that is not a number, and be found much later."""
    graph = capture(Then(lambda x: torch.log(1 + torch.exp(-x)), 8), (3, 8, 8))
    model = quantize(graph, Scheme.uniform(graph.layers, Precision(8, 8)))
    with pytest.raises(
        DataError, match=r"^calibration of model: expected finite values of 'log' \(.*got NaN or infinity"
    ):
        calibrate(model, [torch.randn(4, 3, 8, 8) * 1e4])
