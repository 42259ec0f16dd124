# SPDX-License-Identifier: MIT
"""Sums, differences, and products with constants: additions of tensors, and affine maps of one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.graph.aten.moves import added, joined, repeated
from bitwright.graph.aten.registry import arguments, constant, handles, tensor
from bitwright.graph.aten.views import as_image, is_plain, leading, on_image, reshaped
from bitwright.graph.builder import Builder
from bitwright.graph.nodes import Affine
from bitwright.graph.operations.product import product_of
from bitwright.graph.operations.table import table_of


@dataclass(frozen=True)
class Stack:
    """Tensors along a new axis, which a sum or a mean must take away again.

    Attributes:
        parts: Their names.
        axis: The new one, counted with the batch.
    """

    parts: tuple[str, ...]
    axis: int


def affine(builder: Builder, fx_node: fx.Node, source: str, gain: Any = 1.0, offset: Any = 0.0) -> str:
    """Add `gain * source + offset`, both a number, or a tensor with one number a channel; nothing for the identity."""
    shape = builder.shape_of(source)
    if not is_plain(builder, source):
        channels = leading(builder, source)
        spread = [_of_image(value, shape, channels) for value in (gain, offset)]
        image = affine(builder, fx_node, as_image(builder, fx_node, source, channels), *spread)
        return reshaped(builder, fx_node, image, shape)
    made = [_channels(builder, fx_node, value, shape) for value in (gain, offset)]
    if bool((made[0] == 1).all()) and not bool(made[1].any()):
        return source
    name = builder.node_name(fx_node, "affine")
    return builder.add(
        Affine(
            name=name,
            inputs=(source,),
            shape=shape,
            place=builder.place(fx_node),
            gain=builder.keep(f"{name}.gain", made[0]),
            offset=builder.keep(f"{name}.offset", made[1]),
        )
    )


def _of_image(value: Tensor | float, shape: tuple[int, ...], channels: int) -> Tensor:
    """A constant beside a view of `shape`, as one beside the image that it is a view of."""
    given = torch.as_tensor(value, dtype=torch.float32)
    if not given.dim():
        return given
    axes = (*[1] * (len(shape) + 1 - given.dim()), *given.shape)
    pixels = axes[channels + 1 :]
    spread = given.reshape(axes).expand(axes[0], *shape[:channels], *pixels)
    return spread.reshape(axes[0], -1, *[1] * (2 - len(pixels)), *pixels)


def _channels(builder: Builder, fx_node: fx.Node, value: Tensor | float, shape: tuple[int, ...]) -> Tensor:
    """A constant that an activation of `shape` is combined with, of shape (channels,)."""
    given = torch.as_tensor(value, dtype=torch.float32)
    axes = (1,) * (len(shape) + 1 - given.dim()) + tuple(given.shape)
    if (
        len(axes) != len(shape) + 1
        or axes[0] != 1
        or any(size not in (1, axis) for size, axis in zip(axes[1:], shape, strict=True))
    ):
        raise builder.refuse(
            fx_node,
            f"a constant of shape {tuple(given.shape)} beside images of shape ('batch', {', '.join(map(str, shape))}).",
        )
    given = given.reshape(axes)
    for axis in range(2, len(axes)):
        first = given.narrow(axis, 0, 1)
        if not bool((given == first).all()):
            raise builder.refuse(fx_node, "a constant that differs from pixel to pixel; one number a channel is known.")
        given = first
    return given.flatten().expand(shape[0]).contiguous()


@handles("add")
def _add(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    return _sum(builder, fx_node, given["self"], given["other"], given.get("alpha", 1))


@handles("sub")
def _sub(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    return _sum(builder, fx_node, given["self"], given["other"], -given.get("alpha", 1))


@handles("rsub")
def _rsub(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    return _sum(builder, fx_node, given["other"], given["self"], -given.get("alpha", 1))


def _sum(builder: Builder, fx_node: fx.Node, first: Any, second: Any, factor: float) -> str:
    """`first + factor * second`, at least one of which is an activation."""
    if not isinstance(second, str):
        return affine(
            builder, fx_node, tensor(builder, fx_node, first), offset=constant(builder, fx_node, second) * factor
        )
    if not isinstance(first, str):
        return affine(builder, fx_node, second, gain=float(factor), offset=constant(builder, fx_node, first))
    return sum_of(builder, fx_node, first, second, float(factor))


def sum_of(builder: Builder, fx_node: fx.Node, first: str, second: str, factor: float = 1.0) -> str:
    """Add `first + factor * second`, two activations; one that has one place along an axis is repeated."""
    shapes = [builder.shape_of(name) for name in (first, second)]
    if shapes[0] != shapes[1]:
        if len(shapes[0]) != len(shapes[1]):
            raise builder.refuse(
                fx_node, f"an addition of tensors of unlike numbers of axes, {shapes[0]} and {shapes[1]}."
            )
        shape = tuple(map(max, *shapes))
        first, second = (repeated(builder, fx_node, name, shape) for name in (first, second))
    second = affine(builder, fx_node, second, gain=factor)
    if is_plain(builder, first):
        return added(builder, fx_node, first, second)
    channels = min(leading(builder, name) for name in (first, second))
    images = [as_image(builder, fx_node, name, channels) for name in (first, second)]
    return reshaped(builder, fx_node, added(builder, fx_node, *images), builder.shape_of(first))


def product(builder: Builder, fx_node: fx.Node, first: str, second: str) -> str:
    """Add `first * second`, two activations; one that has one place along an axis is repeated."""
    shapes = [builder.shape_of(name) for name in (first, second)]
    if is_plain(builder, first) or len(shapes[0]) != len(shapes[1]):
        return product_of(builder, fx_node, first, second)
    channels = min(leading(builder, name) for name in (first, second))
    shape = tuple(map(max, *shapes))
    images = []
    for name, own in zip((first, second), shapes, strict=True):
        spread = repeated(builder, fx_node, name, (*shape[:channels], *own[channels:]))
        images.append(as_image(builder, fx_node, spread, channels))
    return reshaped(builder, fx_node, product_of(builder, fx_node, *images), shape)


def function_of(builder: Builder, fx_node: fx.Node, source: str, *program: str | float) -> str:
    """Add a function of each element of an activation; `program` is what comes behind its `x`."""
    return on_image(builder, fx_node, source, lambda image: table_of(builder, fx_node, image, *program))


@handles("mul")
def _mul(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    first, second = given["self"], given["other"]
    if isinstance(first, str) and isinstance(second, str):
        return product(builder, fx_node, first, second)
    source, factor = (first, second) if isinstance(first, str) else (second, first)
    return affine(builder, fx_node, tensor(builder, fx_node, source), gain=constant(builder, fx_node, factor))


@handles("div")
def _div(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    if given.get("rounding_mode") is not None:
        raise builder.refuse(fx_node, "a division that rounds.")
    if isinstance(given["other"], str):
        inverse = function_of(builder, fx_node, given["other"], "reciprocal")
        if isinstance(given["self"], str):
            return product(builder, fx_node, given["self"], inverse)
        return affine(builder, fx_node, inverse, gain=constant(builder, fx_node, given["self"]))
    return affine(
        builder, fx_node, tensor(builder, fx_node, given["self"]), gain=1 / constant(builder, fx_node, given["other"])
    )


@handles("stack")
def _stack(builder: Builder, fx_node: fx.Node) -> Stack | str:
    given = arguments(builder, fx_node)
    parts = tuple(tensor(builder, fx_node, item) for item in given["tensors"])
    shape = builder.shape_of(parts[0])
    axis = given["dim"] % (len(shape) + 2)
    if axis == 0 or all("sum" in str(user.target) or "mean" in str(user.target) for user in fx_node.users):
        return Stack(parts, axis)
    apart = [reshaped(builder, fx_node, part, (*shape[: axis - 1], 1, *shape[axis - 1 :])) for part in parts]
    return joined(builder, fx_node, apart, axis)


@handles("neg")
def _neg(builder: Builder, fx_node: fx.Node) -> str:
    return affine(builder, fx_node, tensor(builder, fx_node, arguments(builder, fx_node)["self"]), gain=-1.0)
