# SPDX-License-Identifier: MIT
"""Clamps, maxima, concatenations and dropout."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import fx

from bitwright.graph.aten.arithmetic import sum_of
from bitwright.graph.aten.moves import joined, padded
from bitwright.graph.aten.pooling import maximum_over
from bitwright.graph.aten.registry import arguments, constant, handles, tensor
from bitwright.graph.aten.views import on_image
from bitwright.graph.builder import Builder
from bitwright.graph.nodes import Bounds, Clamp, Dropout


def clamp_node(builder: Builder, fx_node: fx.Node, source: Any, bounds: Bounds) -> str:
    """Add a clamp of an activation."""
    return on_image(builder, fx_node, tensor(builder, fx_node, source), partial(_clamp_of, builder, fx_node, bounds))


def _clamp_of(builder: Builder, fx_node: fx.Node, bounds: Bounds, source: str) -> str:
    return builder.add(
        Clamp(
            name=builder.node_name(fx_node, "clamp"),
            inputs=(source,),
            shape=builder.shape_of(source),
            place=builder.place(fx_node),
            bounds=bounds,
        )
    )


@handles("relu")
def _relu(builder: Builder, fx_node: fx.Node) -> str:
    return clamp_node(builder, fx_node, arguments(builder, fx_node)["self"], Bounds(0.0))


@handles("relu6")
def _relu6(builder: Builder, fx_node: fx.Node) -> str:
    return clamp_node(builder, fx_node, arguments(builder, fx_node)["self"], Bounds(0.0, 6.0))


@handles("hardtanh")
def _hardtanh(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    return clamp_node(builder, fx_node, given["self"], Bounds(float(given["min_val"]), float(given["max_val"])))


@handles("clamp", "clamp_min", "clamp_max")
def _clamp(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    lower, upper = (_bound(builder, fx_node, given.get(key)) for key in ("min", "max"))
    return clamp_node(builder, fx_node, given["self"], Bounds(lower, upper))


def _bound(builder: Builder, fx_node: fx.Node, value: Any) -> float | None:
    """A bound, which must be one number for all channels."""
    if value is None:
        return None
    if isinstance(value, str):
        raise builder.refuse(fx_node, "its bounds are activations; numbers are known.")
    bound = constant(builder, fx_node, value)
    if not bool((bound == bound.flatten()[0]).all()):
        raise builder.refuse(fx_node, "its bounds differ from channel to channel; one number for all is known.")
    return float(bound.flatten()[0])


@handles("threshold")
def _threshold(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    if given["threshold"] != given["value"]:
        raise builder.refuse(fx_node, "a threshold with another value below it makes a jump, which no clamp has.")
    return clamp_node(builder, fx_node, given["self"], Bounds(float(given["value"])))


@handles("maximum", "max")
def _maximum(builder: Builder, fx_node: fx.Node) -> str | list[str | None]:
    if "dim" in arguments(builder, fx_node):  # the maxima, and their places, which have no integer form
        shape = tuple(int(size) for size in fx_node.meta["val"][0].shape[1:])
        return [maximum_over(builder, fx_node, shape), None]
    return _extreme(builder, fx_node, largest=True)


@handles("minimum", "min")
def _minimum(builder: Builder, fx_node: fx.Node) -> str:
    return _extreme(builder, fx_node, largest=False)


def _extreme(builder: Builder, fx_node: fx.Node, largest: bool) -> str:
    """A clamp, of an activation and a number; of two activations (maxout), `b + max(a - b, 0)`, or `b + min(a - b, 0)`."""
    given = arguments(builder, fx_node)
    if "other" not in given:
        raise builder.refuse(fx_node, "a minimum over axes: use -amax(-x), or max pooling of -x.")
    first, second = given["self"], given["other"]
    if not (isinstance(first, str) and isinstance(second, str)):
        source, number = (first, second) if isinstance(first, str) else (second, first)
        bound = _bound(builder, fx_node, number)
        return clamp_node(builder, fx_node, source, Bounds(bound) if largest else Bounds(None, bound))
    difference = sum_of(builder, fx_node, first, second, factor=-1.0)
    clamped = clamp_node(builder, fx_node, difference, Bounds(0.0) if largest else Bounds(None, 0.0))
    return sum_of(builder, fx_node, clamped, second)


@handles("cat")
def _cat(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    shape = builder.shape(fx_node)
    axis = given["dim"] % (len(shape) + 1)
    return joined(builder, fx_node, _with_zeros(builder, fx_node, given["tensors"], axis), axis)


def _with_zeros(builder: Builder, fx_node: fx.Node, items: Sequence[Any], axis: int) -> list[str]:
    """The activations that are put together along an axis, with the zeros that stand between them as their padding."""
    names: list[str] = []
    around: list[list[int]] = []
    before = 0
    for item in items:
        if isinstance(item, str):
            names.append(item)
            around.append([before, 0])
            before = 0
            continue
        values = constant(builder, fx_node, item)
        if bool(values.any()) or not axis or values.dim() != 4:
            raise builder.refuse(
                fx_node,
                "it puts a constant beside what depends on the images, as transformers do with a class token; zeros are known.",
            )
        if names:
            around[-1][1] += values.shape[axis]
        else:
            before += values.shape[axis]
    return [
        padded(builder, fx_node, name, [*[0] * 2 * (len(builder.shape_of(name)) - axis), *sizes])
        if any(sizes)
        else name
        for name, sizes in zip(names, around, strict=True)
    ]


@handles("dropout")
def _dropout(builder: Builder, fx_node: fx.Node) -> str:
    given = _without_noise(builder, fx_node)
    return builder.add(
        Dropout(
            name=builder.node_name(fx_node, "dropout"),
            inputs=(tensor(builder, fx_node, next(iter(given.values()))),),
            shape=builder.shape(fx_node),
            place=builder.place(fx_node),
            probability=float(given["p"]),
        )
    )


@handles("feature_dropout", "alpha_dropout", "feature_alpha_dropout")
def _dropout_of_features(builder: Builder, fx_node: fx.Node) -> str:
    """The identity, in training as well: only the dropout of single elements goes on there."""
    return tensor(builder, fx_node, next(iter(_without_noise(builder, fx_node).values())))


def _without_noise(builder: Builder, fx_node: fx.Node) -> dict[str, Any]:
    """The arguments of a dropout that is off."""
    given = arguments(builder, fx_node)
    if given["train"]:
        raise builder.refuse(
            fx_node,
            "it drops values at random in evaluation mode: write F.dropout(x, training=self.training), or use nn.Dropout.",
        )
    return given
