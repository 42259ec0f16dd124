# SPDX-License-Identifier: MIT
"""Scales of activations: by their extremes, or by the least squared error."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.quantizer.formats import TensorFormat

_FRACTIONS = 100


def quantize_activation(values: Tensor, scale: Tensor | float, window: TensorFormat) -> Tensor:
    """`values` rounded to multiples of `scale`, in range.

    >>> quantize_activation(torch.tensor([-1.0, 0.3, 9.0]), 0.5, TensorFormat.unsigned(2))
    tensor([0.0000, 0.5000, 1.5000])
    """
    return (values / scale).round_().clamp_(window.quant_min, window.quant_max).mul_(scale)


def full_scale(low: float, high: float, window: TensorFormat) -> float:
    """The smallest scale at which the window holds all of [low, high]; 0 or less where it needs none.

    What lies on a side of zero that has no integers is not held.
    """
    return max(high / window.quant_max if window.quant_max else 0.0, low / window.quant_min if window.negative else 0.0)


def least_squares_scale(values: Tensor, window: TensorFormat, full: float | None = None) -> float:
    """The scale of least squared error, of 100 between a hundredth of the full range and itself.

    Args:
        values: Real values, of any shape.
        window: The integers to round to.
        full: The scale of the full range; that of `values` where none is given.

    Returns:
        The scale; 1 where nothing but zeros can be held.

    >>> least_squares_scale(torch.arange(16.0), TensorFormat.unsigned(4))
    1.0
    """
    values = values.flatten()
    full = full_scale(float(values.min()), float(values.max()), window) if full is None else full
    if full <= 0:
        return 1.0
    scales = full * torch.linspace(1 / _FRACTIONS, 1, _FRACTIONS, device=values.device, dtype=values.dtype)
    errors = [
        (quantize_activation(values, some.reshape(-1, 1), window) - values).square_().mean(1)
        for some in torch.split(scales, 10)
    ]
    return float(scales[torch.cat(errors).argmin()])
