# SPDX-License-Identifier: MIT
"""Pooling, and depthwise convolution, which is pooling with weights: channels never meet."""

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
    constant,
    kernel,
    let,
    load,
    number,
    stack,
    store,
    tasks,
    workspace,
)
from bitwright.export.tvm.kernels.window import Window

CHANNELS = 16
WORKSPACE_BYTES = 2**16


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
        constants = constant_parameters(channels) if spec.rounding else []
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


@dataclass(frozen=True)
class Depthwise:
    """Depthwise convolution, one filter for each channel.

    Attributes:
        window: What it reads, as a single group; its copy is int16.
        rounding: None leaves int32 accumulators.
        dtype: The type of the result.
    """

    window: Window
    rounding: Rounding | None
    dtype: str


def depthwise(spec: Depthwise, name: str) -> Any:
    """The TIR function: (images, weights [kernel_height, kernel_width, channels], bias, rescaling constants, result)."""
    window = spec.window
    channels, (height, width) = window.channels, window.out
    chunk = min(height, max(1, (WORKSPACE_BYTES // (2 * window.row) - window.rows(1)) // window.step[0] + 1))
    chunks = -(-height // chunk)
    chunk = -(-height // chunks)
    with kernel(name) as made:
        images = made.tensor("images", window.height * window.width * channels, window.source)
        weights = constant("weights", [*window.kernel, channels], "int8")
        bias = constant("bias", [channels], "int32")
        constants = constant_parameters(channels) if spec.rounding else []
        result = made.tensor("result", height * width * channels, spec.dtype)
        with tasks(made, chunks) as (image, task):
            first_row = let(T.min(task * chunk, height - chunk))
            copied = workspace(window.rows(chunk) * window.row, "int16")
            window.copy(images, copied, image, number(0), first_row, chunk)

            def block(first: Expr, lanes: int) -> None:
                filters = stack(window.kernel[0] * window.kernel[1] * lanes, "int16")
                for row in range(window.kernel[0]):
                    for column in range(window.kernel[1]):
                        value = cast(load(weights, row, column, first, lanes=lanes), "int16", lanes)
                        store(filters, value, (row * window.kernel[1] + column) * lanes, lanes=lanes)
                with T.serial(chunk * width) as pixel:
                    start = let(window.place(pixel) + first)
                    total = load(bias, first, lanes=lanes)
                    for row in range(window.kernel[0]):
                        for column in range(window.kernel[1]):
                            at = start + (
                                row * window.dilation[0] * window.row + column * window.dilation[1] * window.depth
                            )
                            value = cast(load(copied, at, lanes=lanes), "int32", lanes)
                            weight = load(filters, (row * window.kernel[1] + column) * lanes, lanes=lanes)
                            total = total + value * cast(weight, "int32", lanes)
                    if spec.rounding is not None:
                        total = rescaled(spec.rounding, let(total), constants, first, lanes, spec.dtype)
                    store(result, total, image, (first_row * width + pixel) * channels + first, lanes=lanes)

            blocks(channels, CHANNELS, block)
    return made.finished
