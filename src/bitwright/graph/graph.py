# SPDX-License-Identifier: MIT
"""A captured network: nodes in execution order, and their tensors under the model's own parameter names."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from bitwright.data.preprocessing import Preprocessing, require_same
from bitwright.decode import decode
from bitwright.errors import CaptureError, FileFormatError, shown, unknown_name
from bitwright.files import write_bytes
from bitwright.graph.nodes import Bounds, Input, Layer, Node, Norm, node_kinds
from bitwright.graph.outputs import fault_of_names
from bitwright.graph.shapes import check_shapes
from bitwright.graph.tensors_file import read_structure, serialize
from bitwright.overview import Overview, Overviewed, counted, shape_text

FORMAT = "bitwright.graph.2"


@dataclass(frozen=True, repr=False)
class Graph(Overviewed):
    """A directed acyclic graph of nodes with one input and one or several outputs.

    Attributes:
        model: What it was captured from, for instance `pytorchcv:resnet18`.
        nodes: In topological order; the first is the input.
        outputs: Names of the tensors that the network returns, by the names of the outputs, in their order; a single output is
            called `logits`.
        parameters: Tensors by their names in the model's state dict, in row-major layout.
        preprocessing: Of the images that it was trained with, as far as that is known.
    """

    model: str
    nodes: tuple[Node, ...]
    outputs: Mapping[str, str]
    parameters: Mapping[str, Tensor] = field(repr=False)
    preprocessing: Preprocessing | None = None

    def __post_init__(self) -> None:
        known: set[str] = set()
        for node in self.nodes:
            missing = [name for name in node.inputs if name not in known]
            if missing or node.name in known:
                fault = f"reads {shown(missing[0])} before it is made" if missing else "appears twice"
                raise CaptureError(f"malformed graph of {self.model}: node '{node.name}' {fault}.")
            known.add(node.name)
        wrong = fault_of_names(self.outputs)
        if wrong is not None:
            raise CaptureError(f"malformed graph of {self.model}: {wrong}.")
        for tensor in self.outputs.values():
            if tensor not in known:
                raise CaptureError(f"malformed graph of {self.model}: its output {shown(tensor)} is no node.")

        # In one memory layout, that of files: the layout decides in which order floats are added, and so their last bits.
        if not all(_is_row_major(tensor) for tensor in self.parameters.values()):
            rows = {
                name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in self.parameters.items()
            }
            object.__setattr__(self, "parameters", rows)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes)

    def __getitem__(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise unknown_name("node", name, (node.name for node in self.nodes))

    def overview(self) -> Overview:
        """Its layers, with what they make and how many weights they have."""
        made = ", ".join(f"{name} {shape_text(shape)}" for name, shape in self.output_shapes.items())
        weights = {name: self.parameters[layer.weight].numel() for name, layer in self.layers.items()}
        facts = (
            counted(len(self.layers), "layer"),
            counted(sum(weights.values()), "weight"),
            f"{shape_text(self.input_shape)} to {made}",
        )
        rows = [
            (name, type(layer).__name__, shape_text(layer.shape), f"{weights[name]:,}")
            for name, layer in self.layers.items()
        ]
        return Overview(self.model, facts, ("layer", "kind", "result", "weights"), rows)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of an image."""
        return next(node.shape for node in self.nodes if isinstance(node, Input))

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what the network returns for an image, by output: (classes,) for a classifier."""
        return {name: self[tensor].shape for name, tensor in self.outputs.items()}

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the first output."""
        return next(iter(self.output_shapes.values()))

    @property
    def returned(self) -> frozenset[str]:
        """The tensors that leave the network, whatever else reads them."""
        return frozenset(self.outputs.values())

    @property
    def layers(self) -> dict[str, Layer]:
        """The nodes with weights, by name, in execution order: what a scheme gives bits to."""
        return {node.name: node for node in self.nodes if isinstance(node, Layer)}

    def consumers(self) -> dict[str, list[Node]]:
        """The nodes that read each tensor; one that reads it twice appears twice."""
        readers: dict[str, list[Node]] = {node.name: [] for node in self.nodes}
        for node in self.nodes:
            for name in node.inputs:
                readers[name].append(node)
        return readers

    def with_nodes(self, nodes: tuple[Node, ...], renamed: Mapping[str, str] = MappingProxyType({})) -> Graph:
        """The same network of other nodes; `renamed` says which tensors are others now."""
        outputs = {name: renamed.get(tensor, tensor) for name, tensor in self.outputs.items()}
        return replace(self, nodes=nodes, outputs=outputs)

    def reading(self, data: Preprocessing, source: str) -> Graph:
        """The same network, that knows how its images are made.

        Raises:
            DataError: If it knows otherwise.
        """
        require_same(data, self.preprocessing, self.model, source)
        return replace(self, preprocessing=data.over(self.preprocessing) or None)

    def with_parameters(self, parameters: Mapping[str, Tensor]) -> Graph:
        """The same network with other tensors of the same names and shapes.

        Raises:
            FileFormatError: If a name is missing or a shape differs.
        """
        chosen = {}
        for name, tensor in self.parameters.items():
            if name not in parameters:
                raise FileFormatError(f"the weights lack '{name}', which {self.model} needs.")
            if parameters[name].shape != tensor.shape:
                expected, got = tuple(tensor.shape), tuple(parameters[name].shape)
                raise FileFormatError(f"'{name}' has shape {got} in the weights, but {self.model} needs {expected}.")
            chosen[name] = parameters[name].detach()
        return replace(self, parameters=chosen)

    def to_dict(self) -> dict[str, Any]:
        """The structure as JSON values, without the tensors."""
        nodes = [node_to_dict(node) for node in self.nodes]
        known = {} if self.preprocessing is None else {"preprocessing": self.preprocessing.to_dict()}
        return {"model": self.model, "outputs": dict(self.outputs), "nodes": nodes, **known}

    @classmethod
    def from_dict(cls, structure: Any, parameters: Mapping[str, Tensor], where: str = "graph") -> Graph:
        """The inverse of `to_dict`.

        Raises:
            FileFormatError: If keys are missing or unknown, a value is of another type, or the nodes make no network of these
                parameters: all is looked at here, nothing is left to the first use.
        """
        entries = structure.get("nodes") if isinstance(structure, Mapping) else None
        if not isinstance(entries, list):
            raise FileFormatError(f"{where}: expected a mapping with a list of 'nodes', got {shown(structure)}")
        nodes = tuple(node_from_dict(entry, f"{where}: node {number}") for number, entry in enumerate(entries))
        found = decode(cls, structure, where, {"nodes": nodes, "parameters": parameters})
        check_shapes(found.nodes, found.parameters, where)
        return found

    def save(self, path: str | Path) -> None:
        """Write structure and tensors as one safetensors file, atomically."""
        write_bytes(path, serialize(self.parameters, FORMAT, {"graph": json.dumps(self.to_dict())}))

    @classmethod
    def load(cls, path: str | Path) -> Graph:
        """Read what `save` wrote.

        Raises:
            FileFormatError: If the file is missing, damaged, or no graph.
        """
        tensors, structure = read_structure(path, FORMAT, "graph")
        return cls.from_dict(structure, tensors, where=f"'{path}'")


def _is_row_major(tensor: Tensor) -> bool:
    """Whether the last axis comes first in memory, and so on, even of axes of one element, for which it matters to kernels."""
    return tensor.stride() == torch.empty(tensor.shape, device="meta").stride()


def node_to_dict(node: Node) -> dict[str, Any]:
    """`node` as JSON values, its class under `op`."""
    entry: dict[str, Any] = {"op": type(node).__name__}
    for item in fields(node):
        value = getattr(node, item.name)
        if isinstance(value, Bounds | Norm):
            value = {name.name: getattr(value, name.name) for name in fields(value)}
        entry[item.name] = list(value) if isinstance(value, tuple) else value
    return entry


def node_from_dict(entry: Any, where: str = "node") -> Node:
    """The inverse of `node_to_dict`.

    Raises:
        FileFormatError: If there is no such operation, or a value is missing, unknown or of another type.
    """
    op = entry.get("op") if isinstance(entry, Mapping) else None
    kind = node_kinds().get(op) if isinstance(op, str) else None
    if kind is None:
        raise FileFormatError(f"{where}: unknown operation {shown(op)}; known: {', '.join(operations())}.")
    return decode(kind, {key: value for key, value in entry.items() if key != "op"}, where)


def operations() -> list[str]:
    """Names of all node classes that survive the passes, sorted."""
    unresolved = {"BatchNorm", "Affine", "Probabilities", "Reshape", "Permute", "Requantize"}
    return sorted(node_kinds().keys() - unresolved)
