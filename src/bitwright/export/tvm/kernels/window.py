# SPDX-License-Identifier: MIT
"""The part of an image that a task reads, copied once, padded, into the width that its instructions multiply."""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.export.tvm.kernels.script import Buffer, Expr, T, blocks, cast, let, load, number, store
from bitwright.graph.nodes import Pair

COPY_LANES = 32


@dataclass(frozen=True)
class Window:
    """Where the sums of a convolution come from.

    Attributes:
        height: The height of the image.
        width: The width of the image.
        channels: The channels of one group.
        groups: The number of groups of channels.
        kernel: Height and width.
        stride: Down and across.
        padding: Above and below, left and right.
        dilation: Down and across.
        source: Type of the image.
        copied: Type of the copy: int16, or uint8.
        offset: Added to every value, padding included.
        multiple: Channels of the copy are a multiple of it.
    """

    height: int
    width: int
    channels: int
    groups: int
    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair
    source: str
    copied: str
    offset: int
    multiple: int

    @property
    def out(self) -> Pair:
        """Height and width of the result."""
        sizes = (self.height, self.width)
        spans = (self.dilation[axis] * (self.kernel[axis] - 1) + 1 for axis in (0, 1))
        height, width = (
            (size + 2 * self.padding[axis] - span) // self.stride[axis] + 1
            for axis, (size, span) in enumerate(zip(sizes, spans, strict=True))
        )
        return height, width

    @property
    def gathered(self) -> bool:
        """Whether only the pixels that a strided 1 x 1 kernel reads are copied."""
        return self.kernel == (1, 1) and self.padding == (0, 0)

    @property
    def step(self) -> Pair:
        """From a result to the next, in pixels of the copy."""
        return (1, 1) if self.gathered else self.stride

    @property
    def row(self) -> int:
        """Elements of one copied row."""
        return (self.out[1] if self.gathered else self.width + 2 * self.padding[1]) * self.depth

    @property
    def depth(self) -> int:
        """Channels of one copied pixel."""
        return -(-self.channels // self.multiple) * self.multiple

    @property
    def affine(self) -> bool:
        """Whether results that follow one another read pixels that do."""
        return self.step == (1, 1) and self.row == self.out[1] * self.depth

    def rows(self, results: int) -> int:
        """Copied rows for rows of results."""
        return (results - 1) * self.step[0] + self.dilation[0] * (self.kernel[0] - 1) + 1

    def place(self, results: Expr) -> Expr:
        """First element of the window of a result, counted from the copy's first."""
        if self.affine:
            return results * self.depth
        down = T.floordiv(results, self.out[1]) * (self.step[0] * self.row)
        return let(down + T.floormod(results, self.out[1]) * (self.step[1] * self.depth))

    def copy(self, image: Buffer, copied: Buffer, index: Expr, group: Expr, first: Expr, results: int) -> None:
        """Fill `copied` for `results` rows of results from row `first` on.

        Args:
            image: (batch, height * width * channels * groups).
            copied: What to fill.
            index: The index of the image.
            group: The group of channels.
            first: Row of results.
            results: How many.
        """
        reach = self.stride[0] if self.gathered else 1
        with T.serial(self.rows(results)) as row:
            line = let(first * self.stride[0] + row * reach - self.padding[0])
            start = let(row * self.row)
            if self.padding[0] == 0:
                self._copy_row(image, copied, index, group, line, start)
                return
            with T.If(T.And(line >= 0, line < self.height)):
                with T.Then():
                    self._copy_row(image, copied, index, group, line, start)
                with T.Else():
                    self._fill(copied, start, self.row)

    def _copy_row(self, image: Buffer, copied: Buffer, index: Expr, group: Expr, line: Expr, start: Expr) -> None:
        side = self.padding[1] * self.depth
        if side:
            self._fill(copied, start, side)
            self._fill(copied, start + self.row - side, side)
        total = self.channels * self.groups
        origin = let(line * (self.width * total) + group * self.channels)
        across = self.stride[1] if self.gathered else 1
        pixels = self.out[1] if self.gathered else self.width
        if self.groups == 1 and self.depth == self.channels and across == 1:
            self._copy_run(image, copied, index, origin, start + side, pixels * self.channels)
            return
        with T.serial(pixels) as pixel:
            target = let(start + side + pixel * self.depth)
            self._copy_run(image, copied, index, origin + pixel * (across * total), target, self.channels)
            if self.depth > self.channels:
                self._fill(copied, target + self.channels, self.depth - self.channels)

    def _copy_run(self, image: Buffer, copied: Buffer, index: Expr, origin: Expr, target: Expr, length: int) -> None:
        def body(at: Expr, lanes: int) -> None:
            values = load(image, index, origin + at, lanes=lanes)
            if self.offset:
                values = cast(values, "int16", lanes) + number(self.offset, "int16", lanes)
            store(copied, cast(values, self.copied, lanes), target + at, lanes=lanes)

        blocks(length, COPY_LANES, body)

    def _fill(self, copied: Buffer, start: Expr, length: int) -> None:
        def body(at: Expr, lanes: int) -> None:
            store(copied, number(self.offset, self.copied, lanes), start + at, lanes=lanes)

        blocks(length, COPY_LANES, body)
