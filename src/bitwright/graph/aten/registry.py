# SPDX-License-Identifier: MIT
"""The registry of ATen operations, and how a handler reads its arguments."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from bitwright.graph.builder import Builder, Constant, Parameter
from bitwright.graph.nodes import Pair

Handler = Callable[[Builder, fx.Node], Any]
HANDLERS: dict[str, Handler] = {}

IGNORED = {"sym_size", "sym_constrain_range_for_size", "_assert_scalar", "_assert_tensor_metadata", "ge", "le", "eq"}
"""Bookkeeping of symbolic shapes."""


def supported() -> list[str]:
    """Names of the ATen operations with a handler, sorted."""
    return sorted(HANDLERS)


def handles(*operations: str) -> Callable[[Handler], Handler]:
    """Register a handler; a second one for the same operation is a mistake."""

    def register(handler: Handler) -> Handler:
        for operation in operations:
            if operation in HANDLERS:
                raise ValueError(f"two handlers for {operation}")
            HANDLERS[operation] = handler
        return handler

    return register


def arguments(builder: Builder, fx_node: fx.Node) -> dict[str, Any]:
    """Every argument by its name in the operator's schema, defaults filled in, fx nodes replaced by their values."""
    schema = fx_node.target._schema.arguments  # type: ignore[union-attr]
    found: dict[str, Any] = {}
    for position, argument in enumerate(schema):
        if position < len(fx_node.args):
            value = fx_node.args[position]
        elif argument.name in fx_node.kwargs:
            value = fx_node.kwargs[argument.name]
        else:
            value = argument.default_value
        found[argument.name] = _resolve(builder, value)
    return found


def _resolve(builder: Builder, value: Any) -> Any:
    if isinstance(value, fx.Node):
        return builder.values.get(value)
    if isinstance(value, list | tuple):
        return [_resolve(builder, item) for item in value]
    return value


def tensor(builder: Builder, fx_node: fx.Node, value: Any) -> str:
    """The name of an activation; anything else (a constant, a parameter) is refused."""
    if not isinstance(value, str):
        raise builder.refuse(fx_node, "an operand is a constant or a parameter, not an activation.")
    return value


def constant(builder: Builder, fx_node: fx.Node, value: Any) -> Tensor:
    """What an operand that is no activation holds, as float64: a number, a parameter, or what was computed from these."""
    if isinstance(value, Parameter | Constant):
        return builder.tensor_of(value).detach().double()
    if isinstance(value, bool | int | float):
        return torch.tensor(value, dtype=torch.float64)
    raise builder.refuse(fx_node, "an operand depends on the number of images.")


def parameter(builder: Builder, fx_node: fx.Node, value: Any, name: str) -> str:
    """The name of a weight, bias or statistic: that of the state dict where it is stored, else `name`, under which it is kept."""
    if isinstance(value, Parameter):
        return value.name
    if not isinstance(value, Constant):
        raise builder.refuse(fx_node, f"its {name.rpartition('.')[2]} depends on the images.")
    return builder.keep(name, value.tensor)


def optional_parameter(builder: Builder, fx_node: fx.Node, value: Any, name: str) -> str | None:
    """The same, where None is allowed."""
    return None if value is None else parameter(builder, fx_node, value, name)


def pair(value: Any) -> Pair:
    """(height, width) from one number or two."""
    sizes = [int(item) for item in value] if isinstance(value, list | tuple) else [int(value)]
    return (sizes[0], sizes[-1])
