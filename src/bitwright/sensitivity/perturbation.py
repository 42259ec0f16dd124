# SPDX-License-Identifier: MIT
"""How far quantization moves a layer's weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bitwright.quantizer.weights import Method, quantize_weight, weight_scale


def weight_perturbation(weight: Tensor, bits: int, method: Method = "mse") -> float:
    """||Q(W) - W||_2^2 of the symmetric quantizer, one scale per output channel.

    Args:
        weight: Shape (channels, ...).
        bits: 2 to 8.
        method: How the scales are found, see `weight_scale`.

    Returns:
        The sum over all weights of the squared difference, accumulated in float64; exactly 0 for weights of zero.

    Source:
        Dong et al. 2019, HAWQ-V2, arXiv:1911.03852, equation 9.

    >>> weight_perturbation(torch.tensor([[3.0, -3.0], [0.0, 0.0]]), 4)
    0.0
    >>> weight_perturbation(torch.tensor([[1.0, 0.5]]), 2, method="max")
    0.25
    """
    values = weight.detach()
    scale = weight_scale(values, bits, method)
    rounded = quantize_weight(values, scale, bits) * scale.reshape(-1, *[1] * (values.dim() - 1))
    return float((rounded - values).to(torch.float64).square().sum())


def weight_perturbations(weight: Tensor, bits: Iterable[int], method: Method = "mse") -> dict[int, float]:
    """`weight_perturbation` at each of several widths."""
    return {width: weight_perturbation(weight, width, method) for width in bits}
