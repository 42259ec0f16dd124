# SPDX-License-Identifier: MIT
"""Convolutions: a tile of results at a time, whose sums stay in registers, requantized before they are written.

A task takes some rows of one image and some of its output channels. It copies what the rows read into a padded workspace, and
then goes through blocks of 16 output channels and, for each, through tiles of up to six results: the weights of a block stay in
the first cache while the copied rows stay in the second. With dot products, blocks have 32 channels and tiles seven results.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.export.tvm.kernels.instructions import DOT_LANES, LANES, Dots, Instructions, repeated
from bitwright.export.tvm.kernels.rescaling import Rounding, constant_parameters, rescaled
from bitwright.export.tvm.kernels.script import (
    Buffer,
    Expr,
    T,
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
from bitwright.integer.quant_params import QuantParams

WORKSPACE_BYTES = 2**17
"""A quarter of the second cache of today's CPUs."""

LEAST_TASKS = 8
LEAST_BLOCKS = 4
INT16_MAX = 2**15 - 1


class Products(StrEnum):
    """How a kernel multiplies; see `instructions`."""

    WORDS = "words"
    BYTES = "bytes"
    DOTS = "dots"


@dataclass(frozen=True)
class Convolution:
    """One kernel, which all layers of the same shape share.

    Attributes:
        window: What it reads.
        filters: Output channels of one group.
        products: How it multiplies.
        rounding: None leaves int32 accumulators.
        dtype: The type of the result.
        instructions: The instructions of the CPU.
        pieces: How often in a run the int16 sums of byte products are widened: 0 is only at the end.
    """

    window: Window
    filters: int
    products: Products
    rounding: Rounding | None
    dtype: str
    instructions: Instructions
    pieces: int = 0

    @property
    def step(self) -> int:
        """Input channels of one step."""
        return 2 if self.products is Products.WORDS else 4

    @property
    def vectors(self) -> int:
        """Of eight sums, for each result of a tile."""
        if self.products is Products.DOTS:
            return 4 if self.filters >= 2 * DOT_LANES else 2
        return 2 if self.filters >= 2 * LANES else 1

    @property
    def lanes(self) -> int:
        """Output channels of a block."""
        return self.vectors * LANES

    @property
    def blocks(self) -> int:
        """Of output channels in a group; the last one overlaps its neighbour."""
        return ceil(self.filters / self.lanes)

    @property
    def runs(self) -> tuple[int, int, int]:
        """Kernel rows, kernel columns that lie apart, and elements that do not."""
        (height, width), depth = self.window.kernel, self.window.depth
        return (height, 1, width * depth) if self.window.dilation[1] == 1 else (height, width, depth)

    @property
    def steps(self) -> tuple[int, int]:
        """Pieces of a run, and the steps of each: the last one may pass the run's end, where weights are zero."""
        steps = ceil(self.runs[2] / self.step)
        count = max(1, self.pieces) if self.products is Products.BYTES else 1
        return count, ceil(steps / count)

    @property
    def int16_sums(self) -> bool:
        """Whether int16 sums are kept over more than two steps."""
        return self.products is Products.BYTES and (self.pieces == 0 or self.steps[1] > 2)

    def parts(self) -> list[tuple[int, int]]:
        """First channel and number of channels of what a block reads or writes at once: at most a vector of dot products."""
        lanes = min(self.lanes, DOT_LANES)
        return [(first, lanes) for first in range(0, self.lanes, lanes)]

    def channel_order(self) -> npt.NDArray[np.int64]:
        """The output channel of every lane of every block, -1 where there is none: int64 [groups * blocks * lanes]."""
        starts = np.minimum(np.arange(self.blocks) * self.lanes, max(0, self.filters - self.lanes))
        inside = starts[:, None] + np.arange(self.lanes)
        inside = np.where(inside < self.filters, inside, -1)
        groups = np.arange(self.window.groups)[:, None, None] * self.filters
        return np.where(inside < 0, -1, groups + inside).reshape(-1)

    def arranged(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """Weights [out_channels, in_channels / groups, height, width] in the order in which the kernel reads them."""
        height, width, length = self.runs
        count, steps = self.steps
        deep = np.zeros((len(weight) + 1, *weight.shape[2:], self.window.depth), dtype=np.int8)
        deep[:-1, ..., : weight.shape[1]] = weight.transpose(0, 2, 3, 1)
        rows = np.zeros((len(deep), height, width, count * steps * self.step), dtype=np.int8)
        rows[..., :length] = deep.reshape(len(deep), height, width, length)
        chosen = rows[self.channel_order()]  # -1 is the row of zeros at the end
        split = (self.window.groups * self.blocks, self.vectors, LANES, height, width, count * steps, self.step)
        return np.ascontiguousarray(chosen.reshape(split).transpose(0, 3, 4, 5, 1, 2, 6)).reshape(self.weight_shape)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(groups * blocks, kernel rows, kernel columns apart, steps, vectors, lanes * step)."""
        count, steps = self.steps
        return (
            self.window.groups * self.blocks, *self.runs[:2], count * steps, self.vectors, LANES * self.step,
        )  # fmt: skip

    def chunk(self) -> int:
        """Rows of results of a task: as many as the workspace holds, in equal parts."""
        height, width = self.window.out
        size = self.window.row * (2 if self.window.copied == "int16" else 1)
        fitting = max(1, (WORKSPACE_BYTES // size - self.window.rows(1)) // self.window.step[0] + 1)
        least = ceil(24 / width)
        count = ceil(height / min(height, max(fitting, least)))
        return ceil(height / count)


def convolution(spec: Convolution, name: str) -> Any:
    """The TIR function of a kernel: (images, weights, bias, rescaling constants, result)."""
    window, (height, width) = spec.window, spec.window.out
    total = window.channels * window.groups
    chunk = spec.chunk()
    chunks = ceil(height / chunk)
    parts = max(1, min(spec.blocks // LEAST_BLOCKS, ceil(LEAST_TASKS / (chunks * window.groups))))
    share = ceil(spec.blocks / parts)
    lanes = len(spec.channel_order())
    with kernel(name) as made:
        images = made.tensor("images", window.height * window.width * total, window.source)
        weights = constant("weights", spec.weight_shape, "int8")
        bias = constant("bias", [lanes], "int32")
        constants = constant_parameters(spec.rounding, lanes)
        result = made.tensor("result", height * width * spec.filters * window.groups, spec.dtype)
        with tasks(made, window.groups * chunks * parts) as (image, task):
            group = let(T.floordiv(task, chunks * parts))
            first = let(T.min(T.floormod(T.floordiv(task, parts), chunks) * chunk, height - chunk))
            spare = spec.steps[0] * spec.steps[1] * spec.step - spec.runs[2]
            copied = workspace(window.rows(chunk) * window.row + spare, window.copied)
            window.copy(images, copied, image, group, first, chunk)
            pixels = chunk * width
            tile = _tile(spec, pixels)
            with T.serial(share) as index:
                block = let(T.min(T.floormod(task, parts) * share + index, spec.blocks - 1))
                place = let(group * spec.blocks + block)
                with T.serial(ceil(pixels / tile)) as number_of_tile:
                    start = let(T.min(number_of_tile * tile, pixels - tile))
                    sums = _sums(spec, copied, weights, bias, place, start, tile)
                    channel = group * spec.filters + T.min(block * spec.lanes, max(0, spec.filters - spec.lanes))
                    for offset in range(tile):
                        at = let((first * width + start + offset) * (spec.filters * window.groups) + channel)
                        _write(spec, sums, offset, constants, place, result, image, at)
    return made.finished


def _tile(spec: Convolution, pixels: int) -> int:
    """Results of a tile: the number that wastes least at the end, counting the loads of each step."""
    sizes: tuple[int, ...] = (6, 5, 4) if spec.vectors == 2 else (12, 10, 8, 6, 4)
    if spec.products is Products.DOTS:
        sizes = (7, 6, 5) if spec.vectors == 4 else (8, 7, 6)
    elif spec.products is Products.BYTES and not spec.int16_sums and spec.steps[1] == 2:
        sizes = tuple(size for size in sizes if size * spec.vectors <= 8)
    fitting = [size for size in sizes if size <= pixels]
    if not fitting:
        return pixels
    return min(fitting, key=lambda size: ceil(pixels / size) * (2 * spec.vectors * size + 4))


def _sums(
    spec: Convolution, copied: Buffer, weights: Buffer, bias: Buffer, place: Expr, start: Expr, tile: int
) -> Buffer:
    """int32 sums of a tile, the bias included: [tile * lanes]."""
    sums = stack(tile * spec.lanes, "int32")
    offsets = [spec.window.place(start + offset) for offset in range(tile)]
    for offset in range(tile):
        for first, lanes in spec.parts():
            start_values = load(bias, place * spec.lanes + first, lanes=lanes)
            store(sums, start_values, offset * spec.lanes + first, lanes=lanes)
    partial = stack(tile * spec.vectors * 2 * LANES, "int16") if spec.int16_sums else None
    count, steps = spec.steps
    if partial is not None and spec.pieces == 0:
        _clear(partial, tile * spec.vectors)
    height, width, _ = spec.runs
    with T.serial(height) as row, T.serial(width) as column:
        reach = row * (spec.window.dilation[0] * spec.window.row)
        if width > 1:
            reach = reach + column * (spec.window.dilation[1] * spec.window.depth)
        at = [let(offset + reach) for offset in offsets]
        with T.serial(count) as piece:
            if spec.products is Products.DOTS:
                _dot_products(spec, copied, weights, sums, (place, row, column), steps, at)
            elif partial is None:
                _products(spec, copied, weights, sums, (place, row, column), piece * steps, steps, at)
            else:
                if spec.pieces != 0:
                    _clear(partial, tile * spec.vectors)
                _byte_products(spec, copied, weights, partial, (place, row, column), piece * steps, steps, at)
                if spec.pieces != 0:
                    _widen(spec, partial, sums, tile)
    if partial is not None and spec.pieces == 0:
        _widen(spec, partial, sums, tile)
    return sums


def _products(
    spec: Convolution,
    copied: Buffer,
    weights: Buffer,
    sums: Buffer,
    where: tuple[Expr, Expr, Expr],
    first: Expr,
    steps: int,
    at: list[Expr],
) -> None:
    """Words, or bytes whose sums are widened at once: added to int32 sums."""
    together = 1 if spec.products is Products.WORDS else steps
    with T.serial(steps // together) as index:
        counts = [let(first + index * together + part) for part in range(together)]
        rows = [_weights(spec, weights, where, count) for count in counts]
        for offset, element in enumerate(at):
            values = [
                let(repeated(load(copied, element + count * spec.step, lanes=spec.step), spec.window.copied))
                for count in counts
            ]
            for vector in range(spec.vectors):
                place = (offset * spec.vectors + vector) * LANES
                if spec.products is Products.BYTES:
                    pairs = [
                        spec.instructions.bytes(value, row[vector]) for value, row in zip(values, rows, strict=True)
                    ]
                    products = spec.instructions.widened(sum(pairs[1:], pairs[0]))
                else:
                    products = spec.instructions.words(values[0], rows[0][vector])
                store(sums, load(sums, place, lanes=LANES) + products, place, lanes=LANES)


def _weights(spec: Convolution, weights: Buffer, where: tuple[Expr, Expr, Expr], count: Expr) -> list[Expr]:
    """The vectors of one step."""
    width = LANES * spec.step
    found = [load(weights, *where, count, vector, 0, lanes=width) for vector in range(spec.vectors)]
    return [let(cast(row, "int16", width) if spec.products is Products.WORDS else row) for row in found]


def _dot_products(
    spec: Convolution,
    copied: Buffer,
    weights: Buffer,
    sums: Buffer,
    where: tuple[Expr, Expr, Expr],
    steps: int,
    at: list[Expr],
) -> None:
    """Dots: added to int32 sums, two of the weights' vectors at a time."""
    width = spec.step * DOT_LANES
    with T.serial(steps) as count:
        rows = [let(load(weights, *where, count, vector, 0, lanes=width)) for vector in range(0, spec.vectors, 2)]
        for offset, element in enumerate(at):
            values = load(copied, element + count * spec.step, lanes=spec.step)
            values = let(repeated(values, spec.window.copied, DOT_LANES))
            for index, row in enumerate(rows):
                place = (offset * len(rows) + index) * DOT_LANES
                total = spec.instructions.added_dots(load(sums, place, lanes=DOT_LANES), values, row)
                store(sums, total, place, lanes=DOT_LANES)


def _byte_products(
    spec: Convolution,
    copied: Buffer,
    weights: Buffer,
    partial: Buffer,
    where: tuple[Expr, Expr, Expr],
    first: Expr,
    steps: int,
    at: list[Expr],
) -> None:
    """Bytes: added to int16 sums."""
    width = 2 * LANES
    with T.serial(steps) as index:
        count = let(first + index)
        rows = _weights(spec, weights, where, count)
        for offset, element in enumerate(at):
            values = let(repeated(load(copied, element + count * spec.step, lanes=spec.step), spec.window.copied))
            for vector, row in enumerate(rows):
                place = (offset * spec.vectors + vector) * width
                products = spec.instructions.bytes(values, row)
                store(partial, load(partial, place, lanes=width) + products, place, lanes=width)


def _clear(partial: Buffer, vectors: int) -> None:
    width = 2 * LANES
    for vector in range(vectors):
        store(partial, number(0, "int16", width), vector * width, lanes=width)


def _widen(spec: Convolution, partial: Buffer, sums: Buffer, tile: int) -> None:
    """Add int16 sums to the int32 ones."""
    for vector in range(tile * spec.vectors):
        products = spec.instructions.widened(load(partial, vector * 2 * LANES, lanes=2 * LANES))
        store(sums, load(sums, vector * LANES, lanes=LANES) + products, vector * LANES, lanes=LANES)


def _write(
    spec: Convolution,
    sums: Buffer,
    offset: int,
    constants: list[Buffer],
    place: Expr,
    result: Buffer,
    image: Expr,
    at: Expr,
) -> None:
    """Requantize and store the channels of one result."""
    few = None if spec.filters >= spec.lanes else stack(spec.lanes, spec.dtype)
    for first, lanes in spec.parts():
        values = load(sums, offset * spec.lanes + first, lanes=lanes)
        if spec.rounding is not None:
            values = rescaled(spec.rounding, values, constants, place * spec.lanes + first, lanes, spec.dtype)
        if few is None:
            store(result, values, image, at + first, lanes=lanes)
        else:
            store(few, values, first, lanes=lanes)
    if few is None:
        return
    for channel in range(spec.filters):
        store(result, load(few, channel), image, at + channel)


def with_bytes(spec: Convolution, weight: npt.NDArray[np.int8], params: QuantParams) -> Convolution:
    """`spec` with dot products, or with byte products if the sums of these weights and a format can be proved to fit int16.

    Values of signed formats are shifted to start at zero; the window's `offset` says by how much, which the bias makes up for.

    Every sum is looked at: its positive and its negative products, with the largest value each, over all steps between two
    widenings. The fewest widenings that keep every sum within int16 are taken; if even one step can leave it, `spec` as it is.
    """
    window = replace(spec.window, copied="uint8", multiple=4, offset=-params.quant_min)
    if spec.instructions.dots is not Dots.NONE:
        return replace(spec, products=Products.DOTS, window=window)
    tried = replace(spec, products=Products.BYTES, window=window)
    steps = tried.steps[1]
    arranged = tried.arranged(weight).reshape(-1, steps, spec.vectors * 2 * LANES, 2).astype(np.int64)
    runs = tried.runs[0] * tried.runs[1]
    signed = np.stack([arranged.clip(min=0).sum(3), -arranged.clip(max=0).sum(3)])
    limit = INT16_MAX // (params.quant_max - params.quant_min)
    if signed.reshape(2, -1, runs, steps, signed.shape[-1]).sum((2, 3)).max() <= limit:
        return tried
    count = 1
    while True:
        length = ceil(steps / count)
        padded = np.pad(signed, ((0, 0), (0, 0), (0, length * count - steps), (0, 0)))
        if padded.reshape(*signed.shape[:2], count, length, -1).sum(3).max() <= limit:
            return replace(tried, pieces=count)
        if count == steps:
            return spec
        count = min(steps, count + 1 + count // 4)
