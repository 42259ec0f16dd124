# SPDX-License-Identifier: MIT
"""Quantizers: rounding errors, gradients of learned scales, moving ranges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bitwright.errors import TrainingError
from bitwright.quantizer import TensorFormat
from bitwright.training.quantizers import ActivationQuantizer, Ranges, WeightQuantizer
from training.small import digits, small_quantized

BITS = st.integers(2, 8)
WEIGHTS = st.lists(st.floats(-4, 4, width=32), min_size=6, max_size=6)


@given(WEIGHTS, BITS, st.sampled_from(list(Ranges)))
def test_errors_are_half_a_step_inside_the_range(values: list[float], bits: int, ranges: Ranges) -> None:
    """Weights within the range are off by half a step at most, zero is exact, and integers stay within the format."""
    weight = torch.tensor(values).reshape(2, 3)
    quantizer = WeightQuantizer(2, bits, ranges).eval()
    quantizer.calibrate(weight)
    integers, scale = quantizer(weight)
    assert bool((integers == integers.round()).all())
    assert int(integers.min()) >= quantizer.format.quant_min
    assert int(integers.max()) <= quantizer.format.quant_max
    assert bool((integers[weight == 0] == 0).all())
    columns = scale[:, None]
    inside = (weight >= columns * quantizer.format.quant_min) & (weight <= columns * quantizer.format.quant_max)
    error = (integers * columns - weight).abs()
    assert bool((error <= columns * 0.5 * (1 + 1e-5))[inside].all())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_the_gradient_of_a_learned_scale_is_that_of_the_paper(bits: int) -> None:
    """LSQ, equation 3: `round(v / s) - v / s` inside the clamp range, its ends outside, times 1 / sqrt(elements * levels).

    Where that is more than 1 / levels**2, as here at 4 and 8 bits, this is the factor.
    """
    weight = torch.linspace(-3, 3, 24).reshape(2, 12).double()
    quantizer = WeightQuantizer(2, bits).double().train()
    with torch.no_grad():
        quantizer.scale.fill_(0.37)
    integers, scale = quantizer(weight)
    upstream = torch.linspace(1, 2, 24).reshape(2, 12).double()
    (integers * scale[:, None] * upstream).sum().backward()

    def literal(value: Tensor) -> Tensor:
        ratio = value / 0.37
        if ratio <= quantizer.format.quant_min:
            return torch.tensor(float(quantizer.format.quant_min))
        if ratio >= quantizer.format.quant_max:
            return torch.tensor(float(quantizer.format.quant_max))
        return ratio.round() - ratio

    factor = min((12 * quantizer.format.quant_max) ** -0.5, quantizer.format.quant_max**-2)
    assert (factor == quantizer.format.quant_max**-2) == (bits != 2)
    expected = [
        factor * sum(float(literal(value)) * float(up) for value, up in zip(row, ups, strict=True))
        for row, ups in zip(weight, upstream, strict=True)
    ]
    assert quantizer.scale.grad is not None
    torch.testing.assert_close(quantizer.scale.grad, torch.tensor(expected).double())


def test_the_gradient_of_weights_passes_inside_and_stops_outside() -> None:
    """Straight through, but for weights that the clamp holds."""
    weight = torch.tensor([[-9.0, -0.3, 0.2, 9.0]], requires_grad=True)
    quantizer = WeightQuantizer(1, 4, Ranges.FIXED)
    integers, scale = quantizer(weight)
    (integers * scale[:, None]).sum().backward()
    assert weight.grad is not None
    assert weight.grad.tolist() == [[0.0, 1.0, 1.0, 0.0]]


@given(BITS, st.booleans(), st.floats(0.01, 0.99))
def test_a_moving_range_is_a_weighted_mean(bits: int, signed: bool, momentum: float) -> None:
    """`ema` moves the scale towards what the batch needs; a format without negatives ignores the low end."""
    spec = TensorFormat.of(bits, negative=signed)
    quantizer = ActivationQuantizer(spec, Ranges.EMA, momentum)
    quantizer.observe(torch.tensor(-5.0), torch.tensor(3.0))
    need = max(3 / spec.quant_max, -5 / spec.quant_min) if signed else 3 / spec.quant_max
    assert float(quantizer.scale) == pytest.approx(momentum + (1 - momentum) * need, rel=1e-5)


def test_a_running_maximum_never_shrinks() -> None:
    """Momentum -1 keeps the widest range seen."""
    quantizer = ActivationQuantizer(TensorFormat.unsigned(8), Ranges.EMA, -1)
    for high, expected in ((510.0, 2.0), (255.0, 2.0), (765.0, 3.0)):
        quantizer.observe(torch.tensor(0.0), torch.tensor(high))
        assert float(quantizer.scale) == expected


def test_a_scale_that_is_not_finite_stops_with_its_name() -> None:
    """A diverged training names the tensor, in one line."""
    model = small_quantized().train()
    with torch.no_grad():
        model.activation_quantizer("down.0").scale.fill_(torch.nan)
    with pytest.raises(TrainingError, match=r"the scale of 'down\.0' became nan: the training diverged"):
        model(digits().calibration(4)[0])


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("elements", [9, 576])
def test_no_scale_moves_faster_than_a_clipped_weight(bits: int, elements: int) -> None:
    """One step of descent changes a channel's scale by no larger part than it changes the weight that is clipped."""
    generator = torch.Generator().manual_seed(bits)
    weight = torch.randn(1, elements, generator=generator)
    weight[0, 0] = 4.0
    weight.requires_grad_(True)
    quantizer = WeightQuantizer(1, bits).train()
    with torch.no_grad():
        quantizer.scale.fill_(4.0 / (quantizer.format.quant_max + 0.5))  # clipped for certain
    integers, scale = quantizer(weight)
    pull = torch.zeros(1, elements)
    pull[0, 0] = 1.0
    (integers * scale[:, None] * pull).sum().backward()
    assert quantizer.scale.grad is not None
    relative_step = float(quantizer.scale.grad.abs() / quantizer.scale.detach())
    assert 0 < relative_step <= (1 + 0.5 / quantizer.format.quant_max) / 4.0 * (1 + 1e-6)
