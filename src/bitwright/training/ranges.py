# SPDX-License-Identifier: MIT
"""The range of a tensor's real values: its extremes, or a percentile of it."""

from __future__ import annotations

import torch
from torch import Tensor

MOST_RANKED = 2**18
"""Values whose ranks are found exactly; of a larger tensor so many are drawn. Ranking all of a large one takes seconds, as the
published `--act-percentile` does."""


def extremes(values: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
    """The least and the greatest real value, each of shape ().

    Args:
        values: Shape (batch, channels, ...).
        unit: What one of them is worth, positive: shape (), or (channels,).
    """
    if unit.dim() == 0:
        low, high = values.aminmax()
        return low * unit, high * unit
    axes = [axis for axis in range(values.dim()) if axis != 1]
    return (values.amin(axes) * unit).min(), (values.amax(axes) * unit).max()


def percentiles(values: Tensor, unit: Tensor, percentile: float) -> tuple[Tensor, Tensor]:
    """The real values that so many percent of all lie below, and above; each of shape ().

    Of N values, the upper limit is that of rank round(N p / 100) from below, the lower one that of this rank from above, as
    HAWQ-V3 has it; ranks below 1 are 1, and 100 percent are the extremes.

    Args:
        values: Shape (batch, channels, ...).
        unit: What one of them is worth, positive: shape (), or (channels,).
        percentile: Above 0, at most 100.

    >>> percentiles(torch.arange(-4.0, 6.0).reshape(1, 10), torch.tensor(0.5), 90.0)
    (tensor(-1.5000), tensor(2.))
    """
    if percentile == 100:
        return extremes(values, unit)
    real = values * (unit if unit.dim() == 0 else unit.reshape(-1, *[1] * (values.dim() - 2)))
    flat = real.reshape(-1)
    if len(flat) > MOST_RANKED:
        # From one seed: a training that goes on after an interruption draws the same.
        chosen = torch.randint(len(flat), (MOST_RANKED,), generator=torch.Generator().manual_seed(0))
        flat = flat[chosen.to(flat.device)]
    rank = max(1, round(len(flat) * percentile / 100))
    return -(-flat).kthvalue(rank).values, flat.kthvalue(rank).values
