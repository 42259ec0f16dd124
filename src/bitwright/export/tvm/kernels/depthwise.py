# SPDX-License-Identifier: MIT
"""Depthwise convolution: channels never meet, so that vectors of channels are multiplied by vectors of weights.

With dot products, four neighbouring columns of a row are one step: their bytes are put together once, 32 bits for each channel,
and all rows of results that read them do so by one instruction for four taps.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.export.tvm.kernels.instructions import DOT_LANES, Dots, Instructions
from bitwright.export.tvm.kernels.rescaling import Rounding, constant_parameters, rescaled
from bitwright.export.tvm.kernels.script import (
    Buffer,
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
TAPS = 4
"""Columns of one dot product."""
WORKSPACE_BYTES = 2**16
DOTS_WORKSPACE_BYTES = 2**17


@dataclass(frozen=True)
class Depthwise:
    """Depthwise convolution, one filter for each channel.

    Attributes:
        window: What it reads, as a single group; its copy is int16, or uint8 where dot products are used.
        rounding: None leaves int32 accumulators.
        dtype: The type of the result.
        instructions: The instructions of the CPU.
    """

    window: Window
    rounding: Rounding | None
    dtype: str
    instructions: Instructions

    @property
    def dots(self) -> bool:
        """Whether four columns are multiplied at a time."""
        return self.window.copied == "uint8"

    @property
    def steps(self) -> int:
        """Dot products of a row of the kernel."""
        return ceil(self.window.kernel[1] / TAPS)

    @property
    def apart(self) -> int:
        """Columns between the places of a row where dot products begin: the stride, where all of them lie so."""
        return self.window.step[1] if (TAPS * self.window.dilation[1]) % self.window.step[1] == 0 else 1

    @property
    def places(self) -> int:
        """Places of a row where dot products begin."""
        reach = (self.window.out[1] - 1) * self.window.step[1] + TAPS * self.window.dilation[1] * (self.steps - 1)
        return reach // self.apart + 1

    def arranged(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """Weights [channels, height, width] in the order in which the kernel reads them: channels last, or before four taps."""
        if not self.dots:
            return np.ascontiguousarray(weight.transpose(1, 2, 0))
        channels, height, width = weight.shape
        padded = np.zeros((channels, height, self.steps * TAPS), dtype=np.int8)
        padded[..., :width] = weight
        split = padded.reshape(channels, height * self.steps, TAPS)
        return np.ascontiguousarray(split.transpose(1, 0, 2)).reshape(self.weight_shape)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(kernel height, kernel width, channels), or (dot products, channels * 4)."""
        if self.dots:
            return (self.window.kernel[0] * self.steps, self.window.channels * TAPS)
        return (*self.window.kernel, self.window.channels)

    def chunk(self) -> int:
        """Rows of results of a task: as many as the workspace holds, in equal parts."""
        height = self.window.out[0]
        limit, row = WORKSPACE_BYTES, 2 * self.window.row
        if self.dots:
            limit, row = DOTS_WORKSPACE_BYTES, max(self.window.row, 4 * DOT_LANES * self.places)
        fitting = min(height, max(1, (limit // row - self.window.rows(1)) // self.window.step[0] + 1))
        return ceil(height / ceil(height / fitting))


def depthwise(spec: Depthwise, name: str) -> Any:
    """The TIR function: (images, weights, bias, rescaling constants, result)."""
    window = spec.window
    channels, (height, width) = window.channels, window.out
    chunk = spec.chunk()
    with kernel(name) as made:
        images = made.tensor("images", window.height * window.width * channels, window.source)
        weights = constant("weights", spec.weight_shape, "int8")
        bias = constant("bias", [channels], "int32")
        constants = constant_parameters(spec.rounding, channels)
        result = made.tensor("result", height * width * channels, spec.dtype)
        with tasks(made, ceil(height / chunk)) as (image, task):
            first_row = let(T.min(task * chunk, height - chunk))
            spare = (
                (TAPS - 1) * window.dilation[1] * channels if spec.dots else 0
            )  # beyond the last row, where weights are zero
            copied = workspace(window.rows(chunk) * window.row + spare, window.copied)
            window.copy(images, copied, image, number(0), first_row, chunk)
            fours = workspace(window.rows(chunk) * spec.places * DOT_LANES, "int32") if spec.dots else None

            def block(first: Expr, lanes: int) -> None:
                if fours is not None:
                    _put_together(spec, copied, fours, first, chunk)
                    filters = [
                        let(load(weights, step, first * TAPS, lanes=lanes * TAPS))
                        for step in range(spec.weight_shape[0])
                    ]
                else:
                    words = _words(spec, weights, first, lanes)
                with T.serial(chunk) as down, T.serial(width) as across:
                    total = load(bias, first, lanes=lanes)
                    if fours is not None:
                        total = _dots(spec, fours, filters, total, down, across)
                    else:
                        total = _products(spec, copied, words, total, (down, across, first), lanes)
                    if spec.rounding is not None:
                        total = rescaled(spec.rounding, let(total), constants, first, lanes, spec.dtype)
                    at = ((first_row + down) * width + across) * channels + first
                    store(result, total, image, at, lanes=lanes)

            blocks(channels, CHANNELS, block)
    return made.finished


def _put_together(spec: Depthwise, copied: Buffer, fours: Buffer, first: Expr, chunk: int) -> None:
    """Bytes of four columns, of each channel of a block, at every place where a dot product begins."""
    window = spec.window
    with T.serial(window.rows(chunk)) as row, T.serial(spec.places) as place:
        start = let(row * window.row + place * (spec.apart * window.depth) + first)
        together = cast(load(copied, start, lanes=DOT_LANES), "int32", DOT_LANES)
        for tap in range(1, TAPS):
            value = load(copied, start + tap * window.dilation[1] * window.depth, lanes=DOT_LANES)
            together = together | (cast(value, "int32", DOT_LANES) << number(8 * tap, "int32", DOT_LANES))
        store(fours, together, (row * spec.places + place) * DOT_LANES, lanes=DOT_LANES)


def _dots(spec: Depthwise, fours: Buffer, filters: list[Expr], total: Expr, down: Expr, across: Expr) -> Expr:
    """Sums of a block of channels, four taps at a time."""
    window = spec.window
    start = let(down * (window.step[0] * spec.places) + across * (window.step[1] // spec.apart))
    for row in range(window.kernel[0]):
        for step in range(spec.steps):
            place = row * window.dilation[0] * spec.places + TAPS * window.dilation[1] * step // spec.apart
            values = load(fours, (start + place) * DOT_LANES, lanes=DOT_LANES)
            values = T.reinterpret(f"uint8x{TAPS * DOT_LANES}", values)
            total = spec.instructions.added_dots(total, values, filters[row * spec.steps + step])
    return total


def _words(spec: Depthwise, weights: Buffer, first: Expr, lanes: int) -> Buffer:
    """The weights of a block of channels as int16."""
    height, width = spec.window.kernel
    filters = stack(height * width * lanes, "int16")
    for row in range(height):
        for column in range(width):
            value = cast(load(weights, row, column, first, lanes=lanes), "int16", lanes)
            store(filters, value, (row * width + column) * lanes, lanes=lanes)
    return filters


def _products(
    spec: Depthwise, copied: Buffer, filters: Buffer, total: Expr, where: tuple[Expr, Expr, Expr], lanes: int
) -> Expr:
    """Sums of a block of channels, tap by tap."""
    window, (down, across, first) = spec.window, where
    start = let(down * (window.step[0] * window.row) + across * (window.step[1] * window.depth) + first)
    for row in range(window.kernel[0]):
        for column in range(window.kernel[1]):
            at = start + (row * window.dilation[0] * window.row + column * window.dilation[1] * window.depth)
            value = cast(load(copied, at, lanes=lanes), "int32", lanes)
            weight = load(filters, (row * window.kernel[1] + column) * lanes, lanes=lanes)
            total = total + value * cast(weight, "int32", lanes)
    return total


def in_dots(spec: Depthwise, quant_min: int) -> Depthwise:
    """`spec` with dot products, of values that are stored from zero up."""
    assert spec.instructions.dots is not Dots.NONE
    return replace(spec, window=replace(spec.window, copied="uint8", offset=-quant_min))
