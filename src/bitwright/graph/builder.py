# SPDX-License-Identifier: MIT
"""What translates an exported program: nodes are added one by one, under names that tell their place."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, fx
from torch.export import ExportedProgram

from bitwright.errors import CaptureError
from bitwright.graph.nodes import Node


@dataclass(frozen=True)
class Parameter:
    """The value of an fx node that is a parameter or buffer: its name in the state dict."""

    name: str


@dataclass(frozen=True)
class Constant:
    """The value of an fx node that was computed from parameters and numbers alone; it has no name before a node needs it."""

    tensor: Tensor


@dataclass
class Builder:
    """What a handler of `aten/` may use: the nodes so far, and the values of fx nodes.

    Attributes:
        program: What is translated.
        model: What messages call it.
        nodes: Made so far, in order.
        values: What each fx node became: the name of a node, a `Parameter`, a `Constant`, a list of these, or a plain value.
        names: All that are taken.
        tensors: The parameters, buffers and constants of the program by name, and those that handlers made.
        spent: Names of tensors that only went into constants, unless a node names them as well.
    """

    program: ExportedProgram
    model: str
    nodes: list[Node] = field(default_factory=list)
    values: dict[fx.Node, Any] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    spent: set[str] = field(default_factory=set)

    def place(self, fx_node: fx.Node) -> str:
        """Where in the model an fx node comes from, for messages."""
        return f"{self.module_path(fx_node) or 'the top module'} ({fx_node.target})"

    def module_path(self, fx_node: fx.Node) -> str:
        stack = list(fx_node.meta.get("nn_module_stack", {}).values())
        return str(stack[-1][0]) if stack else ""

    def unique(self, name: str) -> str:
        """`name`, or `name#2`, `name#3`, … where it is taken, for instance by a module that is called twice."""
        chosen, count = name, 1
        while chosen in self.names:
            count += 1
            chosen = f"{name}#{count}"
        self.names.add(chosen)
        return chosen

    def node_name(self, fx_node: fx.Node, operation: str) -> str:
        path = self.module_path(fx_node)
        return self.unique(f"{path}.{operation}" if path else operation)

    def tensor_of(self, value: Parameter | Constant) -> Tensor:
        """What a constant or a stored parameter holds; the latter counts as spent on what is made of it."""
        if isinstance(value, Constant):
            return value.tensor
        self.spent.add(value.name)
        return self.tensors[value.name]

    def keep(self, name: str, tensor: Tensor) -> str:
        """Enter a tensor that was made at capture; never under the name of one that the model has."""
        path, _, leaf = name.rpartition(".")
        chosen = name if name not in self.tensors else f"{path}.evaluated_{leaf}"
        while chosen in self.tensors:
            chosen += "_"
        self.tensors[chosen] = tensor.detach().clone().float()
        return chosen

    def add(self, node: Node) -> str:
        self.nodes.append(node)
        return node.name

    def shape(self, fx_node: fx.Node) -> tuple[int, ...]:
        """Of the tensor an fx node makes, without its batch axis."""
        return tuple(int(size) for size in fx_node.meta["val"].shape[1:])

    def shape_of(self, name: str) -> tuple[int, ...]:
        """Of the tensor that a node of this graph makes, without its batch axis."""
        return next(node.shape for node in reversed(self.nodes) if node.name == name)

    def refuse(self, fx_node: fx.Node, why: str) -> CaptureError:
        return CaptureError(
            f"{self.model}: unsupported operation {fx_node.target} at {self.module_path(fx_node) or 'the top module'}: "
            f"{why}"
        )
