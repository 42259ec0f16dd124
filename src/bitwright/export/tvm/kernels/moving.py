# SPDX-License-Identifier: MIT
"""What only moves integers: each result pixel is put together from runs of channels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bitwright.export.tvm.kernels.script import (
    Expr,
    T,
    blocks,
    constant,
    kernel,
    let,
    load,
    number,
    split,
    store,
    tasks,
)

LANES = 32
LEAST = 64
"""Pixels for which a task of its own is worth while."""


@dataclass(frozen=True)
class Selection:
    """Channels of some tensors, in another order.

    Attributes:
        area: Pixels of an image.
        widths: Channels of each operand.
        runs: Operand (-1 for zeros), first channel, number of channels, and the distance from one to the next, one after the
            other.
        dtype: The type of operands and result.
    """

    area: int
    widths: tuple[int, ...]
    runs: tuple[tuple[int, int, int, int], ...]
    dtype: str


def selection(spec: Selection, name: str) -> Any:
    """The TIR function: (operands, result)."""
    total = sum(count for _, _, count, _ in spec.runs)
    parts, share = split(spec.area, LEAST)
    with kernel(name) as made:
        operands = [
            made.tensor(f"operand{index}", spec.area * width, spec.dtype) for index, width in enumerate(spec.widths)
        ]
        result = made.tensor("result", spec.area * total, spec.dtype)
        with tasks(made, parts) as (image, task), T.serial(share) as index:
            pixel = T.Bind(T.min(task * share + index, spec.area - 1))
            done = 0
            for operand, first, count, stride in spec.runs:

                def block(
                    at: Expr,
                    lanes: int,
                    operand: int = operand,
                    first: int = first,
                    stride: int = stride,
                    done: int = done,
                ) -> None:
                    if operand < 0:
                        value = number(0, spec.dtype, lanes)
                    else:
                        source = pixel * spec.widths[operand] + first + at * stride
                        value = load(operands[operand], image, source, lanes=lanes, stride=stride)
                    store(result, value, image, pixel * total + done + at, lanes=lanes)

                blocks(count, LANES if stride == 1 or operand < 0 else 1, block)
                done += count
    return made.finished


@dataclass(frozen=True)
class Placement:
    """Runs of channels of one tensor, each at a place of its own.

    Attributes:
        elements: The number of elements of an image.
        runs: The runs of the result.
        channels: The channels of a run.
        dtype: The type of operand and result.
    """

    elements: int
    runs: int
    channels: int
    dtype: str


def placement(spec: Placement, name: str) -> Any:
    """The TIR function: (operand, first element of each run or -1 for zeros, result)."""
    parts, share = split(spec.runs, LEAST)
    with kernel(name) as made:
        operand = made.tensor("operand", spec.elements, spec.dtype)
        places = constant("places", [spec.runs], "int32")
        result = made.tensor("result", spec.runs * spec.channels, spec.dtype)
        with tasks(made, parts) as (image, task), T.serial(share) as index:
            at = let(T.min(task * share + index, spec.runs - 1))
            place = let(load(places, at))

            def block(first: Expr, lanes: int) -> None:
                target = at * spec.channels + first
                with T.If(place >= 0):
                    with T.Then():
                        store(result, load(operand, image, place + first, lanes=lanes), image, target, lanes=lanes)
                    with T.Else():
                        store(result, number(0, spec.dtype, lanes), image, target, lanes=lanes)

            blocks(spec.channels, LANES, block)
    return made.finished


@dataclass(frozen=True)
class Flattening:
    """Images as vectors, channels first, as the layers behind expect them.

    Attributes:
        channels: The channels of an image.
        area: Pixels of an image.
        dtype: The type of operand and result.
    """

    channels: int
    area: int
    dtype: str


def flattening(spec: Flattening, name: str) -> Any:
    """The TIR function: (images, result)."""
    with kernel(name) as made:
        images = made.tensor("images", spec.channels * spec.area, spec.dtype)
        result = made.tensor("result", spec.channels * spec.area, spec.dtype)
        with tasks(made, 1) as (image, _), T.serial(spec.channels) as channel, T.serial(spec.area) as pixel:
            value = load(images, image, pixel * spec.channels + channel)
            store(result, value, image, channel * spec.area + pixel)
    return made.finished
