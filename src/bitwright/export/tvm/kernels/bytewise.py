# SPDX-License-Identifier: MIT
"""What bytes become one by one: products of two tensors, one of which may be repeated, and entries of tables."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from bitwright.export.tvm.kernels.elementwise import LANES, LEAST
from bitwright.export.tvm.kernels.rescaling import Rounding, constant_parameters, rescaled
from bitwright.export.tvm.kernels.script import (
    Buffer,
    Expr,
    T,
    blocks,
    cast,
    constant,
    kernel,
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
        constants = constant_parameters(LANES)
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
        first: The integer of the first entry.
        entries: How many there are.
        dtype: The type of the result.
    """

    elements: int
    source: str
    first: int
    entries: int
    dtype: str


def lookup(spec: Lookup, name: str) -> Any:
    """The TIR function: (values, entries, result)."""
    count, share = split(spec.elements, LEAST)
    with kernel(name) as made:
        values = made.tensor("values", spec.elements, spec.source)
        entries = constant("entries", [spec.entries], spec.dtype)
        result = made.tensor("result", spec.elements, spec.dtype)
        with tasks(made, count) as (image, task), T.serial(share) as index:
            place = T.Bind(T.min(task * share + index, spec.elements - 1))
            entry = cast(load(values, image, place), "int32") - spec.first
            store(result, load(entries, entry), image, place)
    return made.finished
