# SPDX-License-Identifier: MIT
"""Pooling: maxima, and sums, over windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bitwright.export.tvm.kernels.rescaling import Rounding, constant_parameters, rescaled
from bitwright.export.tvm.kernels.script import (
    Expr,
    T,
    blocks,
    cast,
    kernel,
    let,
    load,
    number,
    stack,
    store,
    tasks,
)

CHANNELS = 16


@dataclass(frozen=True)
class Maximum:
    """Max pooling; windows may leave the image, of which only what lies inside counts.

    Attributes:
        shape: Channels, height and width of the images.
        out: Height and width of the result.
        kernel: Height and width.
        stride: Down and across.
        padding: Above and left.
        dilation: Down and across.
        dtype: The type of images and result.
    """

    shape: tuple[int, int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    dtype: str


def maximum(spec: Maximum, name: str) -> Any:
    """The TIR function: (images, result)."""
    channels, height, width = spec.shape
    lowest = int(np.iinfo(spec.dtype).min)
    with kernel(name) as made:
        images = made.tensor("images", height * width * channels, spec.dtype)
        result = made.tensor("result", spec.out[0] * spec.out[1] * channels, spec.dtype)
        with tasks(made, spec.out[0]) as (image, down), T.serial(spec.out[1]) as across:

            def block(first: Expr, lanes: int) -> None:
                most = stack(lanes, spec.dtype)
                store(most, number(lowest, spec.dtype, lanes), 0, lanes=lanes)
                for row in range(spec.kernel[0]):
                    for column in range(spec.kernel[1]):
                        line = let(down * spec.stride[0] + (row * spec.dilation[0] - spec.padding[0]))
                        place = let(across * spec.stride[1] + (column * spec.dilation[1] - spec.padding[1]))
                        inside = T.And(T.And(line >= 0, line < height), T.And(place >= 0, place < width))
                        with T.If(inside), T.Then():
                            at = (line * width + place) * channels + first
                            value = T.max(load(most, 0, lanes=lanes), load(images, image, at, lanes=lanes))
                            store(most, value, 0, lanes=lanes)
                at = (down * spec.out[1] + across) * channels + first
                store(result, load(most, 0, lanes=lanes), image, at, lanes=lanes)

            blocks(channels, 2 * CHANNELS if spec.dtype in ("uint8", "int8") else CHANNELS, block)
    return made.finished


@dataclass(frozen=True)
class Sum:
    """Sums over windows, padding counted as zeros: average pooling.

    Attributes:
        shape: Channels, height and width of the images.
        out: Height and width of the result.
        kernel: Height and width.
        stride: Down and across.
        padding: Above and left.
        source: Type of the images.
        rounding: The rounding of the sums; None leaves them, or their floors.
        floor: Divide by the area and drop the fraction, of sums that are not negative.
        dtype: The type of the result.
    """

    shape: tuple[int, int, int]
    out: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    source: str
    rounding: Rounding | None
    floor: bool
    dtype: str


def windowed_sum(spec: Sum, name: str) -> Any:
    """The TIR function: (images, rescaling constants, result)."""
    channels, height, width = spec.shape
    kind = "int64" if spec.floor else "int32"
    with kernel(name) as made:
        images = made.tensor("images", height * width * channels, spec.source)
        constants = constant_parameters(spec.rounding, channels)
        result = made.tensor("result", spec.out[0] * spec.out[1] * channels, spec.dtype)
        with tasks(made, spec.out[0]) as (image, down), T.serial(spec.out[1]) as across:
            limits = []
            for place, axis, size in ((down, 0, height), (across, 1, width)):
                first = place * spec.stride[axis] - spec.padding[axis]
                start, stop = let(T.max(first, 0)), let(T.min(first + spec.kernel[axis], size))
                limits.append((start, stop))

            def block(first: Expr, lanes: int) -> None:
                sums = stack(lanes, kind)
                store(sums, number(0, kind, lanes), 0, lanes=lanes)
                (top, bottom), (left, right) = limits
                with T.serial(bottom - top) as row, T.serial(right - left) as column:
                    at = ((top + row) * width + left + column) * channels + first
                    value = cast(load(images, image, at, lanes=lanes), kind, lanes)
                    store(sums, load(sums, 0, lanes=lanes) + value, 0, lanes=lanes)
                total = load(sums, 0, lanes=lanes)
                if spec.floor:
                    total = T.truncdiv(total, number(spec.kernel[0] * spec.kernel[1], kind, lanes))
                if spec.rounding is not None:
                    total = rescaled(spec.rounding, total, constants, first, lanes, spec.dtype)
                at = (down * spec.out[1] + across) * channels + first
                store(result, cast(total, spec.dtype, lanes), image, at, lanes=lanes)

            blocks(channels, CHANNELS, block)
    return made.finished
