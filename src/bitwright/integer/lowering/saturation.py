# SPDX-License-Identifier: MIT
"""Weights that no engine saturates with: where two products could leave 16 bits, the nearest weights with which they cannot.

x86 CPUs without 8-bit dot products add pairs of uint8 x int8 products in 16 bits. A pair stays within `SATURATING_SUM` while the
two largest weights of one sign of an output channel sum to at most `SATURATING_SUM` divided by the span of the input: 128 for
inputs of 8 bits, so that only weights of 8 bits can be too large, and 258 for inputs of 7 bits, with which none are:
`saturation_choice` decides which of the two gives way.

A channel that breaks the bound gets a scale up to twice as large and clipped weights; of five scales, and for each of all ways to
share the bound between the largest weight and the rest, the one of least squared error of the real weights is taken. Other
channels, hence most often whole layers, stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.integer.proof.bounds import SATURATING_SUM
from bitwright.integer.quant_params import QuantParams
from bitwright.quantizer.weights import quantize_weight

_LEVELS = 129  # magnitudes of 8-bit weights
_FACTORS = tuple(2.0 ** (step / 4) for step in range(5))


@dataclass(frozen=True)
class Narrowed:
    """A layer's weights after narrowing.

    Attributes:
        integers: Shape [channels, ...], as floats.
        factor: Shape [channels]: by how much the scale of each channel grew; 1 where nothing changed.
        channels: How many channels have other integers than before.
        error_before: Root of the mean squared error of the layer's weights over the root of their mean square, as trained.
        error_after: The same, narrowed.
    """

    integers: Tensor
    factor: Tensor
    channels: int
    error_before: float
    error_after: float


def pair_limit(params: QuantParams) -> int:
    """What the two largest weights of one sign may sum to, for inputs of a format stored from 0 on.

    >>> pair_limit(QuantParams.unsigned(8, 0.1)), pair_limit(QuantParams.symmetric(7, 0.1))
    (128, 258)
    """
    return SATURATING_SUM // (params.quant_max - params.quant_min)


def fit_pairs(integers: Tensor, limit: int) -> Tensor:
    """The integers nearest to `integers`, in squared distance, of whose channels no two of one sign sum to more than `limit`.

    Args:
        integers: Shape [channels, ...], of up to 8 bits, as floats.
        limit: At least 2.

    >>> fit_pairs(torch.tensor([[100.0, 60.0, -127.0, 3.0], [90.0, 90.0, 10.0, 0.0]]), 128)
    tensor([[  84.,   44., -127.,    3.],
            [  64.,   64.,   10.,    0.]])
    """
    result = integers.flatten(1).clone()
    for sign in (1, -1):
        side = (sign * result).clamp_(min=0)
        largest, top = side.max(1, keepdim=True)
        second = side.scatter(1, top, 0.0).amax(1)
        bad = largest.squeeze(1) + second > limit
        if bool(bad.any()):
            fitted = _fitted(side[bad], limit)
            result[bad] = torch.where(side[bad] > 0, sign * fitted, result[bad])
    return result.reshape(integers.shape)


def _fitted(side: Tensor, limit: int) -> Tensor:
    """Magnitudes [rows, weights], the largest of each row capped at limit - c, the others at c: the best c of each row."""
    largest, top = side.max(1, keepdim=True)
    row = torch.arange(len(side), device=side.device).unsqueeze(1)
    counts = torch.bincount((row * _LEVELS + side.long()).flatten(), minlength=len(side) * _LEVELS).double()
    counts = counts.reshape(len(side), _LEVELS).scatter_add_(1, largest.long(), -torch.ones_like(largest).double())
    caps = torch.arange(limit // 2 + 1, device=side.device)
    excess = (torch.arange(_LEVELS, device=side.device).unsqueeze(1) - caps).clamp_(min=0).square().double()
    cost = counts @ excess + (largest - (limit - caps)).clamp_(min=0).square().double()
    cap = caps[cost.argmin(1, keepdim=True)].to(side.dtype)
    return side.minimum(cap).scatter_(1, top, largest.minimum(limit - cap))


def narrowed(weight: Tensor, scale: Tensor, integers: Tensor, bit_width: int, limit: int) -> Narrowed:
    """Integers with no too large pair, for real weights at about their scale.

    Args:
        weight: Real weights [channels, ...].
        scale: The scale of each channel.
        integers: What `weight` was quantized to.
        bit_width: The bit width of the weights.
        limit: As `pair_limit` gives it.
    """
    weight, scale, integers = weight.detach(), scale.detach(), integers.detach()
    columns = (-1, *[1] * (weight.dim() - 1))
    bad = (fit_pairs(integers, limit) != integers).flatten(1).any(1)
    factor = torch.ones_like(scale)
    result = integers.clone()
    before = _squares(weight - integers * scale.reshape(columns))
    after = before.clone()
    if bool(bad.any()):
        chosen, at = weight[bad], scale[bad]
        best = torch.full_like(after[bad], torch.inf)
        kept, grown = integers[bad].clone(), torch.ones_like(at)
        for candidate in _FACTORS:
            tried = fit_pairs(quantize_weight(chosen, at * candidate, bit_width), limit)
            error = _squares(chosen - tried * (at * candidate).reshape(columns))
            better = error < best
            best = torch.where(better, error, best)
            kept = torch.where(better.reshape(columns), tried, kept)
            grown = torch.where(better, candidate, grown)
        result[bad], factor[bad], after[bad] = kept, grown, best
    power = max(float(weight.double().square().sum()), torch.finfo(torch.float64).tiny)
    errors = [float((total.sum() / power).sqrt()) for total in (before, after)]
    return Narrowed(result, factor, int(bad.sum()), *errors)


def _squares(values: Tensor) -> Tensor:
    return values.double().square().flatten(1).sum(1)
