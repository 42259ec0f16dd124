# SPDX-License-Identifier: MIT
"""Whether the nodes of a graph make a network: every tensor that one names exists, and every shape is what the nodes give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from bitwright.errors import FileFormatError, reason, shown
from bitwright.graph.evaluate import float_result
from bitwright.graph.nodes import Input, Layer, Node, Norm


def check_shapes(nodes: Sequence[Node], parameters: Mapping[str, Tensor], where: str) -> None:
    """Run the nodes of a graph on shapes alone, without computing a number.

    Raises:
        FileFormatError: If the first node is not the only input, a parameter is missing or does not fit, or a node makes
            another shape than it says; names the node.
    """
    inputs = [node for node in nodes if isinstance(node, Input)]
    if len(inputs) != 1 or nodes[0] is not inputs[0] or len(inputs[0].shape) != 3 or min(inputs[0].shape) < 1:
        raise FileFormatError(f"{where}: expected one input, of three axes, as the first node.")
    for node in nodes:
        _check_reads(node, parameters, where)
    on_meta = {name: tensor.detach().to("meta") for name, tensor in parameters.items()}
    made = {"": torch.empty((1, *inputs[0].shape), device="meta")}
    for node in nodes:
        try:
            result = float_result(node, [made[name] for name in node.inputs or ("",)], on_meta)
            if tuple(result.shape[1:]) != node.shape:
                raise ValueError(f"it makes {tuple(result.shape[1:])}, but says {node.shape}")
        except Exception as error:  # PyTorch has many types for values that make no sense
            raise FileFormatError(
                f"{where}: node '{node.name}' does not fit its inputs or parameters ({reason(error)})."
            ) from error
        made[node.name] = result


def _check_reads(node: Node, parameters: Mapping[str, Tensor], where: str) -> None:
    """How many tensors a node reads, and its parameters."""
    least, most = node.reads
    if not least <= len(node.inputs) <= most:
        raise FileFormatError(f"{where}: node '{node.name}' cannot read {len(node.inputs)} tensors.")
    for name, channels in parameter_names(node).items():
        tensor = parameters.get(name)
        # Shapes alone do not tell PyTorch that a bias has too many values.
        if tensor is None or tensor.dtype != torch.float32 or (channels and tuple(tensor.shape) != (channels,)):
            got = "none" if tensor is None else f"{tensor.dtype} of shape {tuple(tensor.shape)}"
            expected = f"float32 of shape ({channels},)" if channels else "float32"
            raise FileFormatError(f"{where}: node '{node.name}' needs {shown(name)}, {expected}, got {got}.")


def parameter_names(node: Node) -> dict[str, int]:
    """The tensors that a node reads, and how many values those have that have one a channel; 0 for weights."""
    norm: Norm | None = getattr(node, "norm", None)
    each = [getattr(node, name, None) for name in ("bias", "gain", "offset")]
    if norm is not None:
        each += [norm.mean, norm.variance, norm.weight, norm.bias]
    found = {name: node.shape[0] if node.shape else -1 for name in each if name is not None}
    return found | ({node.weight: 0} if isinstance(node, Layer) else {})
