# SPDX-License-Identifier: MIT
"""Whether the nodes of a graph make a network: every tensor that one names exists, and every shape is what the nodes give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from bitwright.errors import FileFormatError, reason, shown
from bitwright.graph.nodes import Add, Concat, Input, Layer, Node, Norm

if TYPE_CHECKING:
    from bitwright.graph.graph import Graph

_INPUTS = {Input: (0, 0), Add: (2, 2), Concat: (1, 2**31)}
"""How many tensors a node reads, at least and at most, where that is not one."""


def check_shapes(graph: Graph, where: str) -> None:
    """Run `graph` on shapes alone, without computing a number.

    Raises:
        FileFormatError: If the first node is not the only input, a parameter is missing or does not fit, or a node makes
            another shape than it says; names the node.
    """
    from bitwright.graph.execute import execute  # which reads graphs itself

    inputs = [node for node in graph if isinstance(node, Input)]
    if len(inputs) != 1 or graph.nodes[0] is not inputs[0] or len(inputs[0].shape) != 3 or min(inputs[0].shape) < 1:
        raise FileFormatError(f"{where}: expected one input, of three axes, as the first node.")
    for node in graph:
        least, most = _INPUTS.get(type(node), (1, 1))
        if not least <= len(node.inputs) <= most:
            raise FileFormatError(f"{where}: node '{node.name}' cannot read {len(node.inputs)} tensors.")
        for name, channels in parameter_names(node).items():
            tensor = graph.parameters.get(name)
            # Shapes alone do not tell PyTorch that a bias has too many values.
            if tensor is None or tensor.dtype != torch.float32 or (channels and tuple(tensor.shape) != (channels,)):
                got = "none" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"
                expected = f"float32 of shape ({channels},)" if channels else "float32"
                raise FileFormatError(f"{where}: node '{node.name}' needs {shown(name)}, {expected}, got {got}.")
    done = 0

    def compare(node: Node, made: Tensor) -> None:
        nonlocal done
        if tuple(made.shape[1:]) != node.shape:
            raise ValueError(f"it makes {tuple(made.shape[1:])}, but says {node.shape}")
        done += 1

    try:
        parameters = {name: tensor.detach().to("meta") for name, tensor in graph.parameters.items()}
        execute(graph, parameters, torch.empty((1, *inputs[0].shape), device="meta"), observe=compare)
    except Exception as error:  # PyTorch has many types for values that make no sense
        name = graph.nodes[min(done, len(graph.nodes) - 1)].name
        raise FileFormatError(
            f"{where}: node '{name}' does not fit its inputs or parameters ({reason(error)})."
        ) from error


def parameter_names(node: Node) -> dict[str, int]:
    """The tensors that a node reads, and how many values those have that have one a channel; 0 for weights."""
    norm: Norm | None = getattr(node, "norm", None)
    each = [getattr(node, "bias", None)]
    if norm is not None:
        each += [norm.mean, norm.variance, norm.weight, norm.bias]
    found = {name: node.shape[0] if node.shape else -1 for name in each if name is not None}
    return found | ({node.weight: 0} if isinstance(node, Layer) else {})
