# SPDX-License-Identifier: MIT
"""Clamps, sums, concatenations and dropout."""

from __future__ import annotations

from typing import Any

from torch import fx

from bitwright.graph.aten.registry import arguments, handles, tensor
from bitwright.graph.builder import Builder
from bitwright.graph.nodes import Add, Bounds, Clamp, Concat, Dropout


def _clamp_node(builder: Builder, fx_node: fx.Node, source: Any, bounds: Bounds) -> str:
    return builder.add(
        Clamp(
            name=builder.node_name(fx_node, "clamp"),
            inputs=(tensor(builder, fx_node, source),),
            shape=builder.shape(fx_node),
            place=builder.place(fx_node),
            bounds=bounds,
        )
    )


@handles("relu")
def _relu(builder: Builder, fx_node: fx.Node) -> str:
    return _clamp_node(builder, fx_node, arguments(builder, fx_node)["self"], Bounds(0.0))


@handles("relu6")
def _relu6(builder: Builder, fx_node: fx.Node) -> str:
    return _clamp_node(builder, fx_node, arguments(builder, fx_node)["self"], Bounds(0.0, 6.0))


@handles("hardtanh")
def _hardtanh(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    return _clamp_node(builder, fx_node, given["self"], Bounds(float(given["min_val"]), float(given["max_val"])))


@handles("clamp", "clamp_min")
def _clamp(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    lower, upper = given.get("min"), given.get("max")
    if not all(bound is None or isinstance(bound, int | float) for bound in (lower, upper)):
        raise builder.refuse(fx_node, "its bounds are tensors.")
    bounds = Bounds(None if lower is None else float(lower), None if upper is None else float(upper))
    return _clamp_node(builder, fx_node, given["self"], bounds)


@handles("add")
def _add(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    operands = [tensor(builder, fx_node, given[key]) for key in ("self", "other")]
    if given.get("alpha", 1) != 1:
        raise builder.refuse(fx_node, "an addition with alpha other than 1.")
    shapes = [tuple(argument.meta["val"].shape[1:]) for argument in fx_node.args[:2]]  # type: ignore[union-attr]
    if shapes[0] != shapes[1]:
        raise builder.refuse(fx_node, f"an addition that broadcasts {shapes[0]} and {shapes[1]}.")
    return builder.add(
        Add(
            name=builder.node_name(fx_node, "add"),
            inputs=tuple(operands),
            shape=builder.shape(fx_node),
            place=builder.place(fx_node),
        )
    )


@handles("cat")
def _cat(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    shape = builder.shape(fx_node)
    if given["dim"] not in (1, -len(shape)):
        raise builder.refuse(fx_node, f"a concatenation along axis {given['dim']}; only channels (1) are known.")
    return builder.add(
        Concat(
            name=builder.node_name(fx_node, "concat"),
            inputs=tuple(tensor(builder, fx_node, item) for item in given["tensors"]),
            shape=shape,
            place=builder.place(fx_node),
        )
    )


@handles("dropout")
def _dropout(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    if given["train"]:
        raise builder.refuse(
            fx_node,
            "it drops values at random in evaluation mode: write F.dropout(x, training=self.training), or use nn.Dropout.",
        )
    return builder.add(
        Dropout(
            name=builder.node_name(fx_node, "dropout"),
            inputs=(tensor(builder, fx_node, next(iter(given.values()))),),
            shape=builder.shape(fx_node),
            place=builder.place(fx_node),
            probability=float(given["p"]),
        )
    )
