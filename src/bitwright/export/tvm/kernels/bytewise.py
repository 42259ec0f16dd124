# SPDX-License-Identifier: MIT
"""What bytes become one by one: products of two tensors, one of which may be repeated, and entries of tables."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from bitwright.export.tvm.kernels.elementwise import LANES, LEAST, LEVELS
from bitwright.export.tvm.kernels.instructions import CHOICES, Choices, Instructions
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
    split,
    store,
    tasks,
)

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Multiplication:
    """Products of two tensors, requantized by one ratio.

    Attributes:
        shape: Channels, height and width of the result.
        shapes: The shapes of the operands: each axis that of the result, or 1.
        sources: Types of the operands.
        rounding: The form of the requantization.
        dtype: The type of the result.
    """

    shape: Shape
    shapes: tuple[Shape, Shape]
    sources: tuple[str, str]
    rounding: Rounding
    dtype: str


def multiplication(spec: Multiplication, name: str) -> Any:
    """The TIR function: (a, b, rescaling constants for 16 lanes, result)."""
    channels, height, width = spec.shape
    count, share = split(height * width, max(1, LEAST // channels))
    with kernel(name) as made:
        operands = [
            made.tensor(letter, prod(shape), dtype)
            for letter, shape, dtype in zip("ab", spec.shapes, spec.sources, strict=True)
        ]
        constants = constant_parameters(spec.rounding, LANES)
        result = made.tensor("result", prod(spec.shape), spec.dtype)
        with tasks(made, count) as (image, task), T.serial(share) as index:
            pixel = T.Bind(T.min(task * share + index, height * width - 1))
            row, column = T.Bind(T.floordiv(pixel, width)), T.Bind(T.floormod(pixel, width))

            def integers(buffer: Buffer, shape: Shape, first: Expr, lanes: int) -> Expr:
                """The operand's integers of channels from `first` on."""
                place = number(0)
                for size, at in zip(shape[1:], (row, column), strict=True):
                    place = place * size + (at if size > 1 else 0)
                if shape[0] > 1 or channels == 1:
                    return cast(load(buffer, image, place * shape[0] + first, lanes=lanes), "int32", lanes)
                value = cast(load(buffer, image, place), "int32")
                return T.broadcast(value, lanes) if lanes > 1 else value

            def block(first: Expr, lanes: int) -> None:
                a, b = (integers(*operand, first, lanes) for operand in zip(operands, spec.shapes, strict=True))
                value = rescaled(spec.rounding, a * b, constants, number(0), lanes, spec.dtype)
                store(result, value, image, pixel * channels + first, lanes=lanes)

            blocks(channels, LANES, block)
    return made.finished


@dataclass(frozen=True)
class Lookup:
    """Entries of a table.

    Attributes:
        elements: The number of elements of an image.
        source: Type of the operand.
        first: The integer of the first entry, at most 255 less than that of the last.
        least: The integer that is stored as 0 in a table of bytes; None where the entries span more, and are stored as they are.
        dtype: The type of the result.
        instructions: The instructions of the CPU.
    """

    elements: int
    source: str
    first: int
    least: int | None
    dtype: str
    instructions: Instructions

    @property
    def lanes(self) -> int:
        """Entries at a time: a vector of them, where they are bytes and an image has as many."""
        many = self.instructions.choices is not Choices.NONE and self.least is not None and self.elements >= CHOICES
        return CHOICES if many else 1


def lookup(spec: Lookup, name: str) -> Any:
    """The TIR function: (values, 256 entries, result)."""
    count, share = split(spec.elements, LEAST)
    with kernel(name) as made:
        values = made.tensor("values", spec.elements, spec.source)
        entries = constant("entries", [LEVELS], spec.dtype if spec.least is None else "uint8")
        result = made.tensor("result", spec.elements, spec.dtype)
        with tasks(made, count) as (image, task):
            start = let(T.min(task * share, spec.elements - share))

            def block(first: Expr, lanes: int) -> None:
                value = cast(load(values, image, start + first, lanes=lanes), "uint8", lanes)
                # Modulo 256: the differences are bytes.
                place = let(value - number(spec.first % LEVELS, "uint8", lanes))
                one = lanes == 1
                entry = load(entries, cast(place, "int32")) if one else spec.instructions.chosen(entries, place)
                if spec.least:
                    entry = cast(entry, "int16", lanes) + number(spec.least, "int16", lanes)
                store(result, cast(entry, spec.dtype, lanes), image, start + first, lanes=lanes)

            blocks(share, spec.lanes, block)
    return made.finished
