# SPDX-License-Identifier: MIT
"""How far the integers of every tensor can reach: what its format says, or, where no clamp keeps it, what its sources allow."""

from __future__ import annotations

from functools import singledispatch

import numpy as np

from bitwright.graph.nodes import Node
from bitwright.integer.model import IntegerModel
from bitwright.integer.multipliers import requantize
from bitwright.integer.ops import Rescale
from bitwright.integer.proof.bounds import Int64Array

Range = tuple[int, int]


def tensor_ranges(model: IntegerModel) -> dict[str, Range]:
    """Smallest and largest integer that each tensor of `model` can hold, whatever the images."""
    found: dict[str, Range] = {}
    for op in model:
        found[op.name] = result_range(op, [found[name] for name in op.inputs], model)
    return found


@singledispatch
def accumulators(op: Node, sources: list[Range], model: IntegerModel) -> tuple[Int64Array, Int64Array]:
    """Smallest and largest integers that an operation rescales: int64 [channels], or [1] for all.

    Args:
        op: A layer, a mean, or a requantization.
        sources: The ranges of what it reads.
        model: Whose formats bound what layers read.
    """
    raise NotImplementedError(f"no accumulators of {type(op).__name__}")


@singledispatch
def result_range(op: Node, sources: list[Range], model: IntegerModel) -> Range:
    """Smallest and largest integer that `op` makes, from the ranges of what it reads."""
    raise NotImplementedError(f"no range of {type(op).__name__}")


def rescaled_range(low: Int64Array, high: Int64Array, rescale: Rescale | None) -> Range:
    """What accumulators become: rescaling does not decrease, so the ends of a channel become the ends of its results.

    Args:
        low: Smallest accumulators, [channels] or [1] for all.
        high: Largest accumulators.
        rescale: None where they leave the network as they are.
    """
    if rescale is not None:
        low, high = (_rescaled(ends, rescale) for ends in (low, high))
    return int(low.min()), int(high.max())


def _rescaled(ends: Int64Array, rescale: Rescale) -> Int64Array:
    """Accumulators [channels], or [1] for all, as what they become."""
    spread = np.broadcast_to(ends, max(len(ends), len(rescale.multipliers)))
    return requantize(spread, rescale.multipliers, rescale.low, rescale.high, channel_axis=0)
