# SPDX-License-Identifier: MIT
"""Free batch norm is PyTorch's, in running statistics and gradients; its outputs are those of the integers that come of it."""

from __future__ import annotations

from math import prod

import pytest
import torch
from torch import nn

from bitwright.graph.nodes import Conv2d, Norm
from bitwright.training.folding import accumulator_unit, bias_integers, folded_gain_and_bias
from bitwright.training.norm import normalise_by_batch
from training.small import digits, small_quantized


@pytest.mark.parametrize("biased", [True, False])
def test_it_is_batch_norm(biased: bool) -> None:
    """Accumulators of the sign-folded weight give what BatchNorm2d gives of the real outputs, negative gains included.

    But for the rounding of the bias, which the integers of a layer with fixed statistics have, if these are the batch's.
    """
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    real, bias, unit = random(6, 4, 5, 5), random(4), random(4).abs() + 0.1
    before = real.new_ones(4)
    norm = nn.BatchNorm2d(4).double().train()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.5, -0.7, 0.0, -2.0]))
        norm.bias.copy_(random(4))
        norm.running_mean.copy_(random(4))
        norm.running_var.copy_(random(4).abs())
    names = {"mean": norm.running_mean, "variance": norm.running_var, "weight": norm.weight, "bias": norm.bias}
    parameters = {name: tensor.detach().clone() for name, tensor in names.items()} | {"shift": bias}
    parameters["weight"].requires_grad_(True)
    sign = torch.where(norm.weight < 0, -1.0, 1.0).detach().reshape(-1, 1, 1)
    accumulator = (real / unit.reshape(-1, 1, 1) * sign).requires_grad_(True)
    node = Conv2d(
        name="conv", inputs=("input",), shape=(4, 5, 5), weight="w", bias="shift" if biased else None, stride=(1, 1),
        padding=(0, 0), dilation=(1, 1), groups=1, norm=Norm("mean", "variance", "weight", "bias", norm.eps),
    )  # fmt: skip
    scale = torch.tensor(0.25, dtype=torch.float64)
    got = normalise_by_batch(node, accumulator, unit, scale, parameters) * scale
    shifted = (real + bias.reshape(-1, 1, 1) if biased else real).requires_grad_(True)
    expected = norm(shifted)
    variance, mean = torch.var_mean(shifted.detach(), (0, 2, 3), correction=0)
    fixed = {name: tensor.detach() for name, tensor in parameters.items()} | {"mean": mean, "variance": variance}
    gain, folded = folded_gain_and_bias(node, fixed)
    one, integers = accumulator_unit(before[0], unit, gain, folded, before.reshape(-1, 1, 1))
    offsets = bias_integers(folded, one)
    literal = (accumulator.detach() * integers + offsets.reshape(-1, 1, 1)) * one.reshape(-1, 1, 1)
    torch.testing.assert_close(got, literal)
    assert bool(((got - expected).abs() <= one.reshape(-1, 1, 1) * 0.5 + 1e-9).all())
    assert not torch.allclose(got, expected, atol=0.01)
    torch.testing.assert_close(parameters["mean"], norm.running_mean)
    torch.testing.assert_close(parameters["variance"], norm.running_var)
    upstream = random(*real.shape)
    got.backward(upstream)
    expected.backward(upstream)
    assert accumulator.grad is not None
    assert shifted.grad is not None
    torch.testing.assert_close(accumulator.grad, shifted.grad * unit.reshape(-1, 1, 1) * sign)
    torch.testing.assert_close(parameters["weight"].grad, norm.weight.grad)


def test_the_unit_has_its_gradient() -> None:
    """What one accumulator is worth changes the result through eps alone; its gradient is autograd's of the formula."""
    generator = torch.Generator().manual_seed(0)
    accumulator = torch.randn(6, 3, 5, 5, generator=generator, dtype=torch.float64)
    upstream = torch.randn(6, 3, 5, 5, generator=generator, dtype=torch.float64)
    gains = torch.tensor([1.5, -0.7, 2.0], dtype=torch.float64)
    units = torch.tensor([1.0, 3e-3, 1e-9], dtype=torch.float64)
    node = Conv2d(
        name="conv", inputs=("input",), shape=(3, 5, 5), weight="w", bias=None, stride=(1, 1), padding=(0, 0),
        dilation=(1, 1), groups=1, norm=Norm("mean", "variance", "weight", None, 1e-5),
    )  # fmt: skip
    found = []
    for literal in (False, True):
        values, unit = accumulator.clone().requires_grad_(), units.clone().requires_grad_()
        if literal:
            real = values * unit.reshape(-1, 1, 1) * gains.sign().reshape(-1, 1, 1)
            result = nn.functional.batch_norm(real, None, None, gains, training=True, eps=1e-5)
        else:
            parameters = {"mean": torch.zeros(3).double(), "variance": torch.ones(3).double(), "weight": gains}
            result = normalise_by_batch(node, values, unit, torch.ones((), dtype=torch.float64), parameters)
        result.backward(upstream)
        found.append((values.grad, unit.grad))
    for got, expected in zip(*found, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("precision", ["W2A2", "W3A4", "W8A8"])
def test_what_is_trained_is_what_is_evaluated(precision: str) -> None:
    """With the statistics of a batch, the integers of that batch are those of training, but where floats fall on a threshold.

    That is for the variance that training divides by; what is remembered is the unbiased one.
    """
    model, images = small_quantized(precision), digits().train.read(range(0, 4000, 16))[0]
    model.settle_norm([images])
    parameters = model.parameters_by_name()
    for node in model.plan.graph.layers.values():
        if node.norm is not None:
            count = len(images) * prod(node.shape[1:])
            parameters[node.norm.variance].mul_((count - 1) / count)
    seen: list[dict[str, torch.Tensor]] = []
    for training in (False, True):  # which changes the statistics
        tensors: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            model.train(training)(images, observe=lambda name, found, kept=tensors: kept.update({name: found.values}))
        seen.append(tensors)
    for name, evaluated in seen[0].items():
        if name not in model.plan.accumulators:
            assert float((evaluated != seen[1][name]).double().mean()) < 1e-4, name
