# SPDX-License-Identifier: MIT
"""Scales of symmetric weight quantization: by the maximum, by a percentile, or by the least squared error."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from bitwright.graph.digest import digest
from bitwright.quantizer.formats import TensorFormat

Method = Literal["max", "mse"]

# Fractions of the largest weight to clip at. At 8 bits the best lies close to one, at 2 bits below one half, and the further
# below the heavier the tails: with 1,152 weights from Student's t (4 degrees of freedom) around 0.2, down to 0.07.
_FRACTIONS = torch.cat([torch.linspace(0.05, 0.19, 15), torch.linspace(0.2, 1.0, 81)])
_CHUNK, _CACHED = 2**22, 2**16
"""Weights at a time, where there is much memory, and so that a processor has them next to it."""
_PATIENCE = 4
"""Clipping points from one look whether more are worth while to the next."""
_CERTAIN = 0.999
"""Far more than rounding in float32 takes from a sum of squares."""
_REMEMBERED = 4096
"""Layers and widths. The candidates of a search share most of theirs, and each of them is quantized, and then calibrated."""
_remembered: dict[tuple[str, int], Tensor] = {}
"""Scales of least squared error by the digest of what they are of, the oldest first."""


def weight_format(bit_width: int) -> TensorFormat:
    """The integers of weights: narrow (+-(2^(k-1) - 1)), but full at 2 and 3 bits, where one level counts.

    >>> [(window.quant_min, window.quant_max) for window in map(weight_format, (2, 3, 4, 8))]
    [(-2, 1), (-4, 3), (-7, 7), (-127, 127)]
    """
    largest = 2 ** (bit_width - 1) - 1
    return TensorFormat(bit_width, -largest - 1 if bit_width <= 3 else -largest, largest)


def quantize_weight(weight: Tensor, scale: Tensor, bit_width: int) -> Tensor:
    """Integers, held as floats, of `weight` (channels, ...) at `scale` (channels,).

    >>> quantize_weight(torch.tensor([[0.9, -1.2, 0.1]]), torch.tensor([0.5]), 2)
    tensor([[ 1., -2.,  0.]])
    """
    window = weight_format(bit_width)
    return (weight / scale.reshape(-1, *[1] * (weight.dim() - 1))).round().clamp(window.quant_min, window.quant_max)


def percentile_scale(weight: Tensor, bit_width: int, percentile: float) -> Tensor:
    """The scale of each output channel at which so many percent of its weights are not clipped at either end.

    Of N weights, the upper limit is that of rank ceil(N p / 100) from below, the lower one that of rank ceil(N (100 - p) / 100);
    ranks below 1 are 1. The scale puts the limit that is farther out on the last integer, as HAWQ-V3 does.

    Args:
        weight: Shape (channels, ...).
        bit_width: 2 to 8.
        percentile: Above 0, at most 100, which is `max`.

    Returns:
        Shape (channels,), positive; that of `max` for a channel whose limits are both zero.

    >>> percentile_scale(torch.tensor([[7.0, 3.5, 0.0, -1.0]]), 4, 75.0)
    tensor([0.5000])
    """
    rows = weight.detach().reshape(weight.shape[0], -1)
    window, count = weight_format(bit_width), rows.shape[1]
    high, low = (
        rows.kthvalue(max(1, math.ceil(count * part / 100)), 1).values for part in (percentile, 100 - percentile)
    )
    limit = torch.maximum(high / window.quant_max, low / window.quant_min)
    return torch.where(limit > 0, limit, weight_scale(weight, bit_width, "max"))


def weight_scale(weight: Tensor, bit_width: int, method: Method = "mse") -> Tensor:
    """The scale of each output channel.

    Args:
        weight: Shape (channels, ...).
        bit_width: 2 to 8.
        method: `max` puts the largest weight on the largest integer; `mse` tries 96 clipping points between a twentieth of
            it and itself and keeps the one of least squared error.

    Returns:
        Shape (channels,), positive; a channel of zeros has 1 by `max`, and the smallest that is tried by `mse`.

    >>> weight_scale(torch.tensor([[0.0, 0.0], [7.0, -3.5]]), 4, method="max")
    tensor([1., 1.])
    """
    rows = weight.detach().reshape(weight.shape[0], -1)
    window = weight_format(bit_width)
    low, high = window.quant_min, window.quant_max
    # With the full range the most negative level is one further out than the most positive.
    largest = torch.maximum(rows.amax(1) / high, rows.amin(1) / low)
    largest = torch.where(largest > 0, largest, torch.ones_like(largest))
    if method == "max":
        return largest
    key = digest(rows), bit_width
    if key not in _remembered:
        if len(_remembered) == _REMEMBERED:
            del _remembered[next(iter(_remembered))]
        _remembered[key] = _of_channels(rows, largest, window).cpu()
    return _remembered[key].to(rows.device, copy=True)


def _of_channels(rows: Tensor, largest: Tensor, window: TensorFormat) -> Tensor:
    """The scales of least squared error, for as many channels at a time as memory next to the processor holds."""
    at_once = max(1, (_CACHED if rows.device.type == "cpu" else _CHUNK) // max(1, rows.shape[1]))
    parts = zip(torch.split(rows, at_once), torch.split(largest, at_once), strict=True)
    return torch.cat([_least_squares(some, limits, window) for some, limits in parts])


def _least_squares(rows: Tensor, largest: Tensor, window: TensorFormat) -> Tensor:
    """Of all clipping points the scales with the least squared error, at once.

    From the largest down: what is clipped at a point is clipped even more at those below. Where that alone is a larger error
    than the best so far, these are left out.
    """
    low, high = window.quant_min, window.quant_max
    best, best_error = largest.clone(), torch.full_like(largest, torch.inf)
    groups = torch.split(_FRACTIONS.to(rows), max(1, _CACHED // max(1, rows.numel())))
    for number, some in enumerate(reversed(groups)):
        scales = largest * some.reshape(-1, 1)
        if number and number % _PATIENCE == 0:
            kept = rows.clamp((scales[-1] * low).unsqueeze(-1), (scales[-1] * high).unsqueeze(-1))
            if bool((kept.sub_(rows).square_().sum(-1) * _CERTAIN > best_error).all()):
                break
        integers = (rows / scales.unsqueeze(-1)).round_().clamp_(low, high)
        errors = (integers * scales.unsqueeze(-1)).sub_(rows).square_().sum(-1)
        error, index = errors.min(0)
        better = error <= best_error  # of equals the smallest
        best = torch.where(better, scales.gather(0, index.unsqueeze(0))[0], best)
        best_error = torch.where(better, error, best_error)
    return best
