# SPDX-License-Identifier: MIT
"""Up- and down-sampling: nearest places are selections, linear interpolation is a mean over repeated places.

An image each place of which is repeated q times, and which is then averaged over windows of q places, is the image interpolated
linearly between its places: a window that holds k places of one pixel and q - k of the next gives them the weights k / q and
(q - k) / q. Interpolation at places that are p / q pixels apart is such a mean with stride p, for any whole p and q: exact in
integers, since it is a sum of integers and one multiplier.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import lcm, prod

import torch
from torch import fx

from bitwright.graph.aten.moves import take
from bitwright.graph.aten.pooling import average
from bitwright.graph.aten.registry import arguments, handles, tensor
from bitwright.graph.builder import Builder

_LONGEST = 8192
"""Places along an axis that repetition may make: beyond, memory and time are out of proportion."""

_LARGEST = 64
"""Places of windows over both axes at once, which round once; larger ones are two means, of far fewer places."""


@handles("upsample_nearest2d", "upsample_nearest1d", "_upsample_nearest_exact2d")
def _upsample_nearest(builder: Builder, fx_node: fx.Node) -> str:
    source = tensor(builder, fx_node, next(iter(arguments(builder, fx_node).values())))
    sizes = builder.shape_of(source)[1:]
    for axis, size in enumerate(sizes, 2):
        # PyTorch computes places in float32: what it selects of the places themselves is what it selects.
        along = [1, 1, *(size if other == axis else 1 for other, size in enumerate(sizes, 2))]
        grid = torch.arange(size, dtype=torch.float32).reshape(along).expand(1, 1, *sizes)
        selected = fx_node.target(grid, *fx_node.args[1:], **fx_node.kwargs)  # type: ignore[operator]
        places = selected.movedim(axis, 0).flatten(1)[:, 0]
        source = take(builder, fx_node, source, axis, map(int, places))
    return source


@dataclass(frozen=True)
class Windows:
    """Means that interpolate along an axis.

    Attributes:
        places: That are averaged, in windows one behind the other, which may overlap.
        taps: Places of a window.
        step: From one window to the next.
    """

    places: tuple[int, ...]
    taps: int
    step: int


def _interpolation(size: int, out: int, first: Fraction, step: Fraction) -> Windows:
    """Linear interpolation at `first`, `first + step`, … of an axis of `size` places, whose ends go on.

    Where every place is repeated q times, a window of q that begins at m has its middle at m / q of the axis: q must make all
    these m whole numbers.
    """
    taps = lcm(first.denominator, step.denominator)
    start, stride = int(first * taps), int(step * taps)
    repeated: Sequence[int]
    if stride < taps:
        repeated = range(start, start + (out - 1) * stride + taps)
    else:  # windows do not overlap: what lies between them is left out
        repeated = [start + place * stride + tap for place in range(out) for tap in range(taps)]
    return Windows(tuple(min(max(place // taps, 0), size - 1) for place in repeated), taps, min(stride, taps))


@handles("upsample_bilinear2d", "_upsample_bilinear2d_aa")
def _upsample_linear(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source = tensor(builder, fx_node, next(iter(given.values())))
    before, after = builder.shape_of(source)[1:], builder.shape(fx_node)[1:]
    if "_aa" in str(fx_node.target) and any(out < size for size, out in zip(before, after, strict=True)):
        raise builder.refuse(fx_node, "it makes images smaller through a filter of its own: use average pooling.")
    scales = given.get("scale_factors") or [given.get(name) for name in ("scales_h", "scales_w")]
    axes = [
        _windows(builder, fx_node, size, out, scale, bool(given["align_corners"]))
        for size, out, scale in zip(before, after, scales, strict=True)
    ]
    taps = [windows.taps for windows in axes]
    together = prod(taps) <= _LARGEST
    for axis, windows in enumerate(axes, 2):
        source = take(builder, fx_node, source, axis, windows.places)
        if not together:
            source = _mean(builder, fx_node, source, {axis: windows})
    return _mean(builder, fx_node, source, dict(enumerate(axes, 2))) if together else source


def _windows(
    builder: Builder, fx_node: fx.Node, size: int, out: int, scale: float | None, align_corners: bool
) -> Windows:
    """How an axis is interpolated: from end to end, or pixel by pixel with half of one at each end."""
    if size == 1 or (align_corners and out == 1):
        return Windows((0,) * out, 1, 1)
    if align_corners:
        windows = _interpolation(size, out, Fraction(0), Fraction(size - 1, out - 1))
    else:
        step = 1 / Fraction(scale).limit_denominator(size * out) if scale else Fraction(size, out)
        windows = _interpolation(size, out, (step - 1) / 2, step)
    if len(windows.places) > _LONGEST:
        raise builder.refuse(
            fx_node,
            f"interpolation from {size} to {out} places, which is exact over {len(windows.places)} places; up to {_LONGEST} are "
            "known: resize by a whole factor, or without align_corners.",
        )
    return windows


def _mean(builder: Builder, fx_node: fx.Node, source: str, windows: Mapping[int, Windows]) -> str:
    """Means over the windows of some axes; nothing where all hold one place."""
    if all(along.taps == 1 for along in windows.values()):
        return source
    kernel, stride = (
        tuple(getattr(windows[axis], name) if axis in windows else 1 for axis in (2, 3)) for name in ("taps", "step")
    )
    return average(builder, fx_node, source, (kernel[0], kernel[1]), (stride[0], stride[1]), (0, 0))
