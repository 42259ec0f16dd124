# SPDX-License-Identifier: MIT
"""How far the integers of every tensor can reach: what its format says, or, where no clamp keeps it, what its sources allow."""

from __future__ import annotations

from fractions import Fraction
from functools import singledispatch

import numpy as np
import numpy.typing as npt

from bitwright.graph.nodes import Concat, Node, Pad, Selection
from bitwright.integer.model import IntegerModel
from bitwright.integer.multipliers import requantize
from bitwright.integer.ops import (
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerFloorAvgPool2d,
    IntegerLinear,
    IntegerRequantize,
    Quantize,
    ReciprocalQuantize,
    Rescale,
)
from bitwright.integer.proof.bounds import accumulator_bounds
from bitwright.quantizer.sums import window_sums

Range = tuple[int, int]
Int64Array = npt.NDArray[np.int64]


def tensor_ranges(model: IntegerModel) -> dict[str, Range]:
    """Smallest and largest integer that each tensor of `model` can hold, whatever the images."""
    found: dict[str, Range] = {}
    for op in model:
        found[op.name] = result_range(op, [found[name] for name in op.inputs], model)
    return found


def accumulators(op: Node, sources: list[Range], model: IntegerModel) -> tuple[Int64Array, Int64Array]:
    """Smallest and largest integers that a rescaled operation rescales: int64 [channels], or [1] for all.

    Args:
        op: A layer, a pooling, or a requantization.
        sources: The ranges of what it reads.
        model: Whose formats bound what layers read.
    """
    low, high = sources[0]
    if isinstance(op, IntegerConv2d | IntegerLinear):
        return accumulator_bounds(op.weight, op.bias, model.formats[op.inputs[0]])
    if isinstance(op, IntegerAvgPool2d):
        low, high = window_sums(op.kernel, (low, high))
    return np.array([low]), np.array([high])


@singledispatch
def result_range(op: Node, sources: list[Range], model: IntegerModel) -> Range:
    """Smallest and largest integer that `op` makes, from the ranges of what it reads."""
    raise NotImplementedError(f"no range of {type(op).__name__}")


@result_range.register
def _(op: Selection, sources: list[Range], model: IntegerModel) -> Range:
    return sources[0]


@result_range.register
def _(op: Pad, sources: list[Range], model: IntegerModel) -> Range:
    low, high = sources[0]
    return min(low, 0), max(high, 0)


@result_range.register(Concat)
def _(op: Concat, sources: list[Range], model: IntegerModel) -> Range:
    return min(low for low, _ in sources), max(high for _, high in sources)


@result_range.register(Quantize)
@result_range.register(ReciprocalQuantize)
def _(op: Quantize | ReciprocalQuantize, sources: list[Range], model: IntegerModel) -> Range:
    return op.low, op.high


@result_range.register(IntegerConv2d)
@result_range.register(IntegerLinear)
@result_range.register(IntegerAvgPool2d)
@result_range.register(IntegerRequantize)
def _(
    op: IntegerConv2d | IntegerLinear | IntegerAvgPool2d | IntegerRequantize, sources: list[Range], model: IntegerModel
) -> Range:
    low, high = accumulators(op, sources, model)
    if op.rescale is not None:
        # Rescaling does not decrease, so the ends of a channel become the ends of its results.
        low, high = (_rescaled(ends, op.rescale) for ends in (low, high))
    return int(low.min()), int(high.max())


@result_range.register(IntegerAdd)
def _(op: IntegerAdd, sources: list[Range], model: IntegerModel) -> Range:
    low, high = (
        sum(end * multiplier for end, multiplier in zip(ends, op.multipliers, strict=True))
        for ends in zip(*sources, strict=True)
    )
    first, last = (max(op.low, min(op.high, round(Fraction(end, 1 << op.shift)))) for end in (low, high))
    return first, last


@result_range.register(IntegerFloorAvgPool2d)
def _(op: IntegerFloorAvgPool2d, sources: list[Range], model: IntegerModel) -> Range:
    low, high = sources[0]
    return min(low, 0), max(high, 0)  # padding counts as zeros


def _rescaled(ends: Int64Array, rescale: Rescale) -> Int64Array:
    """Accumulators [channels], or [1] for all, as what they become."""
    spread = np.broadcast_to(ends, max(len(ends), len(rescale.multipliers)))
    return requantize(spread, rescale.multipliers, rescale.low, rescale.high, channel_axis=0)
