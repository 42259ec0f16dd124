# SPDX-License-Identifier: MIT
"""What happens to one element at a time: additions, requantizations, the first and the last step of a network."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any

from bitwright.export.tvm.kernels.rescaling import Rounding, constant_parameters, rescaled, rounded_shift
from bitwright.export.tvm.kernels.script import (
    Expr,
    T,
    blocks,
    cast,
    clamp,
    constant,
    kernel,
    let,
    load,
    number,
    split,
    store,
    tasks,
)

LANES = 16
LEAST = 4096
"""Elements for which a task of its own is worth while."""
LEVELS = 256


@dataclass(frozen=True)
class Addition:
    """`clamp(round_half_even((a * multipliers[0] + b * multipliers[1]) / 2**shift), low, high)`.

    Attributes:
        elements: The number of elements of an image.
        sources: Types of a and b.
        multipliers: The multipliers of a and b.
        shift: In bits.
        low: Smallest result.
        high: Largest result.
        in_int64: Whether sums need 64 bits.
        dtype: The type of the result.
    """

    elements: int
    sources: tuple[str, str]
    multipliers: tuple[int, int]
    shift: int
    low: int
    high: int
    in_int64: bool
    dtype: str


def addition(spec: Addition, name: str) -> Any:
    """The TIR function: (a, b, result)."""
    kind = "int64" if spec.in_int64 else "int32"
    count, share = split(spec.elements, LEAST)
    with kernel(name) as made:
        terms = [made.tensor(letter, spec.elements, dtype) for letter, dtype in zip("ab", spec.sources, strict=True)]
        result = made.tensor("result", spec.elements, spec.dtype)
        with tasks(made, count) as (image, task):
            start = let(T.min(task * share, spec.elements - share))

            def block(first: Expr, lanes: int) -> None:
                parts = [
                    cast(load(term, image, start + first, lanes=lanes), kind, lanes) * number(factor, kind, lanes)
                    for term, factor in zip(terms, spec.multipliers, strict=True)
                ]
                total = rounded_shift(parts[0] + parts[1], spec.shift, kind, lanes)
                value = cast(clamp(total, spec.low, spec.high, kind, lanes), spec.dtype, lanes)
                store(result, value, image, start + first, lanes=lanes)

            blocks(share, LANES, block)
    return made.finished


@dataclass(frozen=True)
class Requantization:
    """One ratio for a whole tensor.

    Attributes:
        elements: The number of elements of an image.
        source: Type of the operand.
        rounding: Its form.
        dtype: The type of the result.
    """

    elements: int
    source: str
    rounding: Rounding
    dtype: str


def requantization(spec: Requantization, name: str) -> Any:
    """The TIR function: (values, rescaling constants for 16 lanes, result)."""
    count, share = split(spec.elements, LEAST)
    with kernel(name) as made:
        values = made.tensor("values", spec.elements, spec.source)
        constants = constant_parameters(spec.rounding, LANES)
        result = made.tensor("result", spec.elements, spec.dtype)
        with tasks(made, count) as (image, task):
            start = let(T.min(task * share, spec.elements - share))

            def block(first: Expr, lanes: int) -> None:
                value = cast(load(values, image, start + first, lanes=lanes), "int32", lanes)
                value = rescaled(spec.rounding, value, constants, number(0), lanes, spec.dtype)
                store(result, value, image, start + first, lanes=lanes)

            blocks(share, LANES, block)
    return made.finished


@dataclass(frozen=True)
class Conversion:
    """The same integers in another type, and zeros behind them.

    Attributes:
        elements: The number of elements of an image.
        padded: Elements of the result.
        source: Type of the operand.
        dtype: The type of the result.
    """

    elements: int
    padded: int
    source: str
    dtype: str


def conversion(spec: Conversion, name: str) -> Any:
    """The TIR function: (values, result)."""
    with kernel(name) as made:
        values = made.tensor("values", spec.elements, spec.source)
        result = made.tensor("result", spec.padded, spec.dtype)
        with tasks(made, 1) as (image, _):
            for element in range(spec.elements, spec.padded):
                store(result, number(0, spec.dtype), image, element)

            def block(first: Expr, lanes: int) -> None:
                value = cast(load(values, image, first, lanes=lanes), spec.dtype, lanes)
                store(result, value, image, first, lanes=lanes)

            blocks(spec.elements, LANES, block)
    return made.finished


@dataclass(frozen=True)
class Images:
    """Normalised float32 images, or uint8 pixels, to the integers of the first tensor.

    Attributes:
        shape: Channels, height and width.
        pixels: Whether pixels are looked up in a table for each channel.
        reciprocal: Whether values are multiplied by the reciprocal of the scale, not divided by the scale.
        low: Smallest result.
        high: Largest result.
        dtype: The type of the result.
    """

    shape: tuple[int, int, int]
    pixels: bool
    reciprocal: bool
    low: int
    high: int
    dtype: str


def quantization(spec: Images, name: str) -> Any:
    """The TIR function: (images [batch, channels, height, width], scale or its reciprocal or tables, result)."""
    channels, height, width = spec.shape
    area = height * width
    with kernel(name) as made:
        shape = (made.batch, *spec.shape)
        images = T.arg("images", T.buffer(shape, "uint8" if spec.pixels else "float32", layout=None))
        # No constant of the code: a division by one would become a multiplication, which rounds otherwise.
        extent, kind = ([channels, LEVELS], spec.dtype) if spec.pixels else ([1], "float32")
        scale = constant("scale", extent, kind)
        result = made.tensor("result", area * channels, spec.dtype)
        with tasks(made, height) as (image, row):
            for channel in range(channels):
                if spec.pixels:
                    with T.serial(width) as column:
                        value = load(scale, channel, cast(load(images, image, channel, row, column), "int32"))
                        store(result, value, image, (row * width + column) * channels + channel)
                    continue

                def block(first: Expr, lanes: int, channel: int = channel) -> None:
                    value = load(images, image, channel, row, first, lanes=lanes)
                    factor = T.broadcast(load(scale, 0), lanes) if lanes > 1 else load(scale, 0)
                    value = T.nearbyint(value * factor if spec.reciprocal else value / factor)
                    value = clamp(value, spec.low, spec.high, "float32", lanes)
                    at = (row * width + first) * channels + channel
                    store(result, cast(value, spec.dtype, lanes), image, at, lanes=lanes, stride=channels)

                blocks(width, LANES, block)
    return made.finished


@dataclass(frozen=True)
class Logits:
    """The network's result, channels first, as int32, or as real numbers.

    Attributes:
        shape: The shape of the result: (channels, height, width), whose operand has its channels last; or any other, (classes,)
            for instance.
        source: Type of the operand.
        units: How many there are: one for each channel, or for each value, or 1; 0 leaves integers.
    """

    shape: tuple[int, ...]
    source: str
    units: int


def output(spec: Logits, name: str) -> Any:
    """The TIR function: (values, units where there are, result [batch, *shape])."""
    of_image = len(spec.shape) == 3
    channels, area = (spec.shape[0], prod(spec.shape[1:])) if of_image else (prod(spec.shape), 1)
    dtype = "float32" if spec.units else "int32"
    with kernel(name) as made:
        values = made.tensor("values", area * channels, spec.source)
        units = constant("units", [spec.units], "float32") if spec.units else None
        result = T.arg("result", T.buffer((made.batch, *spec.shape), dtype, layout=None))
        with tasks(made, 1) as (image, _), T.serial(channels) as channel, T.serial(area) as pixel:
            value = cast(cast(load(values, image, pixel * channels + channel), "int32"), dtype)
            if units is not None:
                each = {1: number(0), channels: channel}.get(spec.units, channel * area + pixel)
                value = value * load(units, each)
            element = channel * area + pixel
            place: list[Any] = []
            for size in reversed(spec.shape[1:]):
                element, along = T.floordiv(element, size), T.floormod(element, size)
                place.insert(0, along)
            store(result, value, image, element, *place)
    return made.finished
