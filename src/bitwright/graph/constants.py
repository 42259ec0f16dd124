# SPDX-License-Identifier: MIT
"""What depends on parameters alone is computed at capture: weight norm, pruning masks, weight standardisation, frozen norms."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves, tree_map

from bitwright.graph.builder import Builder, Constant, Parameter


def depends_on_parameters_alone(builder: Builder, fx_node: fx.Node) -> bool:
    """Whether an operation makes the same tensors for all images and batch sizes."""
    operands = tree_leaves((fx_node.args, fx_node.kwargs))
    return all(_is_constant(builder.values.get(item)) for item in operands if isinstance(item, fx.Node))


def _is_constant(value: Any) -> bool:
    return (isinstance(value, list) and all(map(_is_constant, value))) or isinstance(value, Parameter | Constant)


@torch.no_grad()
def evaluated(builder: Builder, fx_node: fx.Node) -> Any:
    """The result of an operation on constants: a `Constant`, or a list of them.

    Raises:
        CaptureError: If it draws random numbers.
    """
    if torch.Tag.nondeterministic_seeded in getattr(fx_node.target, "tags", ()):
        raise builder.refuse(fx_node, "it draws random numbers in evaluation mode: make them once, in __init__().")

    def known(item: Any) -> Any:
        if not isinstance(item, fx.Node):
            return item
        # A copy: an operation that writes into its operand must not change the model's own.
        return tree_map(
            lambda value: builder.tensor_of(value).detach().clone(),
            builder.values[item],
            is_leaf=lambda value: isinstance(value, Parameter | Constant),
        )

    args, kwargs = fx.node.map_aggregate((fx_node.args, fx_node.kwargs), known)
    result = fx_node.target(*args, **kwargs)  # type: ignore[operator]
    return tree_map(lambda value: Constant(value) if isinstance(value, Tensor) else value, result)
