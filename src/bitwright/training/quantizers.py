# SPDX-License-Identifier: MIT
"""Quantizers of activations and weights in integer units, with straight-through gradients.

Values travel as integers in float tensors, their scale beside them: `real = scale * q`. A product of such integers is exact
in float32 while sums stay within 2**24, so the training forward is the integer model, up to the certification of multipliers.
"""

from __future__ import annotations

from enum import StrEnum

import torch
from torch import Tensor, nn

from bitwright.sensitivity.weight_scale import Method, weight_range, weight_scale
from bitwright.training.plan import TensorSpec


class Ranges(StrEnum):
    """How scales follow the data during training.

    `learned`: by gradient (LSQ, Esser et al. 2020, arXiv:1902.08153). `ema`: activations by an exponential moving average of
    their range, weights by their present maximum (HAWQ-V3). `fixed`: as calibrated.
    """

    LEARNED = "learned"
    EMA = "ema"
    FIXED = "fixed"


def round_half_even(values: Tensor) -> Tensor:
    """Round to the nearest integer, halves to even; the gradient passes straight through."""
    return values + (values.round() - values).detach()


def scale_gradient(values: Tensor, factor: float) -> Tensor:
    """`values`, with the gradient multiplied by `factor`."""
    return (values - values * factor).detach() + values * factor


class ActivationQuantizer(nn.Module):
    """The scale of one tensor (or of several that share it).

    Args:
        spec: The integer format.
        ranges: How the scale follows the data.
        momentum: Weight of the old range in the moving average.
    """

    scale: Tensor

    def __init__(self, spec: TensorSpec, ranges: Ranges = Ranges.LEARNED, momentum: float = 0.99) -> None:
        super().__init__()
        self.spec = spec
        self.ranges = ranges
        self.momentum = momentum
        if ranges is Ranges.LEARNED:
            self.scale = nn.Parameter(torch.ones(()))
        else:
            self.register_buffer("scale", torch.ones(()))

    def current_scale(self, elements_per_sample: int = 1) -> Tensor:
        """The scale, its gradient damped as LSQ does by the square root of elements times levels."""
        scale = self.scale.abs().clamp_min(torch.finfo(torch.float32).tiny)
        if self.ranges is Ranges.LEARNED and self.training:
            scale = scale_gradient(scale, (elements_per_sample * self.spec.quant_max) ** -0.5)
        return scale

    @torch.no_grad()
    def observe(self, real: Tensor) -> None:
        """Move the range towards that of a batch of real values."""
        if self.ranges is not Ranges.EMA:
            return
        low, high = real.detach().aminmax()
        limit = torch.maximum(high / self.spec.quant_max, low / min(self.spec.quant_min, -1))
        limit = limit.clamp_min(torch.finfo(torch.float32).tiny)
        self.scale.copy_(self.momentum * self.scale + (1 - self.momentum) * limit)


class WeightQuantizer(nn.Module):
    """The per-channel scales of one layer's weights, and the rounding to them.

    Args:
        channels: Output channels.
        bit_width: 2 to 8.
        ranges: How the scales follow the weights.
    """

    scale: Tensor

    def __init__(self, channels: int, bit_width: int, ranges: Ranges = Ranges.LEARNED) -> None:
        super().__init__()
        self.bit_width = bit_width
        self.ranges = ranges
        self.quant_min, self.quant_max = weight_range(bit_width)
        if ranges is Ranges.LEARNED:
            self.scale = nn.Parameter(torch.ones(channels))
        else:
            self.register_buffer("scale", torch.ones(channels))

    @torch.no_grad()
    def calibrate(self, weight: Tensor) -> None:
        """Set the scales to those of `weight`, shaped (channels, ...): least squared error, or the maximum for `ema`."""
        method: Method = "max" if self.ranges is Ranges.EMA else "mse"
        self.scale.copy_(weight_scale(weight, self.bit_width, method=method))

    def forward(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Integers shaped as `weight`, and their scales of shape (channels,)."""
        if self.ranges is Ranges.EMA and self.training:
            self.calibrate(weight)
        scale = self.scale.abs().clamp_min(torch.finfo(torch.float32).tiny)
        if self.ranges is Ranges.LEARNED and self.training:
            scale = scale_gradient(scale, (weight[0].numel() * self.quant_max) ** -0.5)
        columns = scale.reshape(-1, *[1] * (weight.dim() - 1))
        return round_half_even((weight / columns).clamp(self.quant_min, self.quant_max)), scale
