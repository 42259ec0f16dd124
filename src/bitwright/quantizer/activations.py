# SPDX-License-Identifier: MIT
"""Scales of activations: by their extremes, or by the least squared error."""

from __future__ import annotations

from math import inf

import torch
from torch import Tensor

from bitwright.quantizer.formats import TensorFormat

_FRACTIONS = 100
_PATIENCE = 4
"""Scales from one look whether smaller ones are worth while to the next."""
_CERTAIN = 0.999
"""Far more than rounding in float32 takes from a mean of squares."""


def quantize_activation(values: Tensor, scale: Tensor | float, window: TensorFormat) -> Tensor:
    """`values` rounded to multiples of `scale`, in range.

    >>> quantize_activation(torch.tensor([-1.0, 0.3, 9.0]), 0.5, TensorFormat.unsigned(2))
    tensor([0.0000, 0.5000, 1.5000])
    """
    return (values / scale).round_().clamp_(window.quant_min, window.quant_max).mul_(scale)


def drawn(values: Tensor, count: int) -> Tensor:
    """`values`, of one axis; of more than `count` so many, drawn by a generator of their own.

    Not every n-th of them: where n and the size of an image have a factor in common, these are always the same pixels.
    """
    if len(values) <= count:
        return values
    places = torch.randint(len(values), (count,), generator=torch.Generator().manual_seed(0))
    return values[places.to(values.device)]


def full_scale(low: float, high: float, window: TensorFormat) -> float:
    """The smallest scale at which the window holds all of [low, high]; 0 or less where it needs none.

    What lies on a side of zero that has no integers is not held.
    """
    return max(high / window.quant_max if window.quant_max else 0.0, low / window.quant_min if window.negative else 0.0)


def least_squares_scale(values: Tensor, window: TensorFormat, full: float | None = None) -> float:
    """The scale of least squared error, of 100 between a hundredth of the full range and itself, from the largest down.

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
    best, best_error = full, inf
    for number, scale in enumerate(scales.flip(0)):
        if number and number % _PATIENCE == 0:
            # A smaller scale only clips more: where that alone is a larger error than the best, the rest is left out.
            clipped = values.clamp(scale * window.quant_min, scale * window.quant_max).sub_(values).square_().mean()
            if float(clipped) * _CERTAIN > best_error:
                break
        error = float((quantize_activation(values, scale, window) - values).square_().mean())
        if error <= best_error:  # of equals the smallest
            best, best_error = float(scale), error
    return best
