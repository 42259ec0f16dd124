# SPDX-License-Identifier: MIT
"""The scales of a layer's weights by what is lost behind compensation, and not by each weight for itself."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.quantizer.formats import TensorFormat
from bitwright.reconstruction.compensated_weights import compensated, damped

LEAST, MOST = 0.5, 1.3
"""Ends of what scales are multiplied by."""
MANY, FEW = 201, 17
"""Scales that are tried for a channel, at most; where time does not allow this few, the layer keeps its own: channels of many
weights gain little by their scale."""
PRODUCTS = 2**33
"""Multiplications that a layer's search may take: a second, or few."""
AT_ONCE = 2**22
"""Weights that are rounded at a time, 32 MiB."""


def searched(weight: Tensor, scale: Tensor, moments: Tensor, window: TensorFormat, damping: float) -> Tensor:
    """For each channel, the scale by which compensated integers lose least, of many around its own.

    Few weights, as depthwise layers have, all come close to integers at some scale: the more are tried, the closer.

    Args:
        weight: Shape (groups, channels, weights of a channel), float64.
        scale: Where to look, shape (groups, channels, 1).
        moments: `E[x x^T]` of what the weights are multiplied by, shape (groups, weights of a channel, weights of a channel).
        window: The integers that weights may become.
        damping: See `damped`.

    Returns:
        Shaped as `scale`.
    """
    count = min(MANY, PRODUCTS // max(1, weight.numel() * weight.shape[2]))
    if count < FEW:
        return scale
    factors = torch.cat([torch.ones(1), torch.linspace(LEAST, MOST, count)]).to(scale)
    matrix, losses = damped(moments, damping), list[Tensor]()
    for some in torch.split(factors, max(1, AT_ONCE // weight.numel())):
        tried = (scale * some).transpose(1, 2).flatten(1)[:, :, None]  # of every factor, all channels
        repeated = weight.repeat(1, len(some), 1)
        lost = compensated(repeated / tried, moments, window, damping) * tried - repeated
        losses.append(((lost @ matrix) * lost).sum(2).reshape(len(weight), len(some), -1))
    best = torch.cat(losses, 1).argmin(1)
    return scale * factors[best][:, :, None]
