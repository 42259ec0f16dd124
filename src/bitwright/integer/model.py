# SPDX-License-Identifier: MIT
"""IntegerModel: a network that is nothing but integers, and its file."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.errors import FileFormatError
from bitwright.files import write_bytes
from bitwright.graph import nodes as graph_nodes
from bitwright.graph.nodes import Node
from bitwright.graph.tensors_file import read_tensors, serialize
from bitwright.integer import ops as integer_ops
from bitwright.integer.multipliers import Multipliers
from bitwright.integer.ops import IntegerConv2d, IntegerLinear, Rescale
from bitwright.integer.packing import pack, pack_bytes, unpack, unpack_bytes
from bitwright.integer.quant_params import QuantParams
from bitwright.scheme import Scheme

FORMAT = "bitwright.integer.1"


@dataclass(frozen=True, eq=False)
class IntegerModel:
    """Operations on integers in execution order.

    Attributes:
        model: What it was made from, for instance `pytorchcv:resnet18`.
        scheme: Precision of every layer.
        ops: In topological order; the first quantizes the images.
        formats: Format and scale of every tensor but the accumulators that leave the network.
        output: Name of the tensor that the network returns.
        output_unit: float64 [classes] or [1]: what one integer of the output is worth.
        facts: What lowering established: bounds, certificates, engine conditions.
    """

    model: str
    scheme: Scheme
    ops: tuple[Node, ...]
    formats: Mapping[str, QuantParams]
    output: str
    output_unit: npt.NDArray[np.float64]
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.ops)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of an image."""
        return self.ops[0].shape

    def layers(self) -> dict[str, IntegerConv2d | IntegerLinear]:
        """The operations with weights, by name."""
        return {op.name: op for op in self.ops if isinstance(op, IntegerConv2d | IntegerLinear)}

    def to_bytes(self) -> bytes:
        """The file: structure as JSON metadata, weights packed at their bit width, other arrays in as few bytes as hold them."""
        tensors: dict[str, Tensor] = {}
        entries = [_entry(op, tensors) for op in self.ops]
        tensors["output_unit"] = torch.from_numpy(np.array(self.output_unit))
        structure = {
            "model": self.model,
            "scheme": self.scheme.to_dict(),
            "ops": entries,
            "formats": {name: dataclasses.asdict(params) for name, params in self.formats.items()},
            "output": self.output,
            "facts": dict(self.facts),
        }
        return serialize(tensors, FORMAT, {"structure": json.dumps(structure, separators=(",", ":"))})

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically."""
        write_bytes(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | Path) -> IntegerModel:
        """Read what `save` wrote.

        Raises:
            FileFormatError: If the file is missing, truncated, altered, or no integer model.
        """
        tensors, metadata = read_tensors(path, FORMAT)
        try:
            structure = json.loads(metadata["structure"])
            return cls(
                model=structure["model"],
                scheme=Scheme.from_dict(structure["scheme"], where=str(path)),
                ops=tuple(_op(entry, tensors) for entry in structure["ops"]),
                formats={name: QuantParams(**params) for name, params in structure["formats"].items()},
                output=structure["output"],
                output_unit=tensors["output_unit"].numpy(),
                facts=structure["facts"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FileFormatError(f"'{path}' is no integer model that this version can read: {error!r}.") from error


def _entry(op: Node, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The JSON of an operation; its arrays go to `tensors`."""
    entry: dict[str, Any] = {"op": type(op).__name__}
    for item in dataclasses.fields(op):
        value = getattr(op, item.name)
        if isinstance(value, Rescale):
            tensors[f"{op.name}.multiplier"] = torch.from_numpy(pack_bytes(value.multipliers.multiplier, signed=False))
            tensors[f"{op.name}.shift"] = torch.from_numpy(pack_bytes(value.multipliers.shift, signed=False))
            value = {"low": value.low, "high": value.high}
        elif item.name == "weight" and isinstance(op, IntegerConv2d | IntegerLinear):
            tensors[f"{op.name}.weight"] = torch.from_numpy(pack(value, op.weight_bits, signed=True))
            value = {"shape": list(value.shape)}
        elif item.name == "bias":
            tensors[f"{op.name}.bias"] = torch.from_numpy(pack_bytes(value, signed=True))
            value = {}
        entry[item.name] = list(value) if isinstance(value, tuple) else value
    return entry


def _op(entry: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Node:
    """The inverse of `_entry`."""
    kind = getattr(integer_ops, entry["op"], None) or getattr(graph_nodes, entry["op"], None)
    if not (isinstance(kind, type) and issubclass(kind, Node)):
        raise FileFormatError(f"unknown operation '{entry['op']}' in an integer model.")
    values: dict[str, Any] = {}
    name = entry["name"]
    for item in dataclasses.fields(kind):
        value = entry[item.name]
        if item.name == "rescale" and value is not None:
            multipliers = Multipliers(
                unpack_bytes(tensors[f"{name}.multiplier"].numpy(), signed=False),
                unpack_bytes(tensors[f"{name}.shift"].numpy(), signed=False).astype(np.int32),
            )
            value = Rescale(multipliers, value["low"], value["high"])
        elif item.name == "weight":
            value = unpack(tensors[f"{name}.weight"].numpy(), tuple(value["shape"]), entry["weight_bits"], signed=True)
        elif item.name == "bias" and value is not None:
            value = unpack_bytes(tensors[f"{name}.bias"].numpy(), signed=True).astype(np.int32)
        values[item.name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)
