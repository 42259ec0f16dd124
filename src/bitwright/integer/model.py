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
import torch
from torch import Tensor

from bitwright.cost import BYTES_PER_MB
from bitwright.data.preprocessing import Preprocessing
from bitwright.files import write_bytes
from bitwright.graph.nodes import Node, Selection
from bitwright.graph.tensors_file import serialize
from bitwright.integer.ops import IntegerLayer, Rescale
from bitwright.integer.outputs import Output
from bitwright.integer.packing import pack, pack_bytes
from bitwright.integer.quant_params import QuantParams
from bitwright.overview import Overview, Overviewed, counted, shape_text
from bitwright.scheme import Scheme

FORMAT = "bitwright.integer.4"


@dataclass(frozen=True, eq=False, repr=False)
class IntegerModel(Overviewed):
    """Operations on integers in execution order.

    Attributes:
        model: What it was made from, for instance `pytorchcv:resnet18`.
        scheme: Precision of every layer.
        ops: In topological order; the first quantizes the images.
        formats: Format and scale of every tensor but the accumulators that leave the network.
        outputs: What the network returns, by name, in order; a single output is called `logits`.
        facts: What lowering established: bounds, certificates, engine conditions.
        preprocessing: Of the images that it reads, as far as that is known.
    """

    model: str
    scheme: Scheme
    ops: tuple[Node, ...]
    formats: Mapping[str, QuantParams]
    outputs: Mapping[str, Output]
    facts: Mapping[str, Any] = field(default_factory=dict)
    preprocessing: Preprocessing | None = None

    def __iter__(self) -> Iterator[Node]:
        return iter(self.ops)

    def overview(self) -> Overview:
        """Its operations, with the bits of what they make and the largest sum that was proved."""
        made = ", ".join(f"{name} {shape_text(shape)}" for name, shape in self.output_shapes.items())
        size = sum(layer.weight.size * layer.weight_bits for layer in self.layers().values()) / 8 / BYTES_PER_MB
        facts = (
            f"scheme {self.scheme.name}",
            counted(len(self.layers()), "layer"),
            f"{size:.3f} MB of weights",
            f"{shape_text(self.input_shape)} to {made}",
        )
        rows = []
        for op in self.ops:
            weights = str(op.weight_bits) if isinstance(op, IntegerLayer) else ""
            bits = str(self.formats[op.name].bit_width) if op.name in self.formats else ""
            sums = self.facts.get(op.name, {}).get("largest_accumulator", "")
            rows.append((op.name, type(op).__name__, shape_text(op.shape), weights, bits, f"{sums:,}" if sums else ""))
        return Overview(self.model, facts, ("operation", "kind", "result", "weight bits", "bits", "largest sum"), rows)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of an image."""
        return self.ops[0].shape

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Of a tensor, without the batch."""
        return next(op.shape for op in self.ops if op.name == tensor)

    @property
    def output_shapes(self) -> dict[str, tuple[int, ...]]:
        """Of what the network returns for an image, by output: (classes,) for a classifier."""
        shapes = {op.name: op.shape for op in self.ops}
        return {name: shapes[output.tensor] for name, output in self.outputs.items()}

    @property
    def output_shape(self) -> tuple[int, ...]:
        """Of the first output."""
        return next(iter(self.output_shapes.values()))

    @property
    def returned(self) -> frozenset[str]:
        """The tensors that leave the network, whatever else reads them."""
        return frozenset(output.tensor for output in self.outputs.values())

    def real(self, integers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The real numbers, float64, that the outputs' integers stand for."""
        return {
            name: values.double() * torch.from_numpy(self.outputs[name].across(values.dim() - 1)).to(values.device)
            for name, values in integers.items()
        }

    def layers(self) -> dict[str, IntegerLayer]:
        """The operations with weights, by name."""
        return {op.name: op for op in self.ops if isinstance(op, IntegerLayer)}

    def to_bytes(self) -> bytes:
        """The file: structure as JSON metadata, weights packed at their bit width, other arrays in as few bytes as hold them."""
        tensors: dict[str, Tensor] = {}
        entries = [_entry(op, tensors) for op in self.ops]
        for name, output in self.outputs.items():
            tensors[unit_name(name)] = torch.from_numpy(np.array(output.unit))
        structure = {
            "model": self.model,
            "scheme": self.scheme.to_dict(),
            "ops": entries,
            "formats": {name: dataclasses.asdict(params) for name, params in self.formats.items()},
            "outputs": {name: output.tensor for name, output in self.outputs.items()},
            "facts": dict(self.facts),
        }
        if self.preprocessing is not None:
            structure["preprocessing"] = self.preprocessing.to_dict()
        return serialize(tensors, FORMAT, {"structure": json.dumps(structure, separators=(",", ":"))})

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, atomically."""
        write_bytes(path, self.to_bytes())


def moved_from(tensor: str, model: IntegerModel) -> str:
    """The operation that made the integers of a tensor, which others may only have selected or moved."""
    by_name = {op.name: op for op in model}
    while isinstance(by_name[tensor], Selection):
        tensor = by_name[tensor].inputs[0]
    return tensor


def unit_name(output: str) -> str:
    """The name of an output's unit in the file."""
    return f"output_unit:{output}"


def _entry(op: Node, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """The JSON of an operation; its arrays go to `tensors`."""
    entry: dict[str, Any] = {"op": type(op).__name__}
    for item in dataclasses.fields(op):
        value = getattr(op, item.name)
        if isinstance(value, Rescale):
            tensors[f"{op.name}.multiplier"] = torch.from_numpy(pack_bytes(value.multipliers.multiplier, signed=False))
            tensors[f"{op.name}.shift"] = torch.from_numpy(pack_bytes(value.multipliers.shift, signed=False))
            value = {"low": value.low, "high": value.high}
        elif item.name == "weight" and isinstance(op, IntegerLayer):
            tensors[f"{op.name}.weight"] = torch.from_numpy(pack(value, op.weight_bits, signed=True))
            value = {"shape": list(value.shape)}
        elif isinstance(value, np.ndarray):
            tensors[f"{op.name}.{item.name}"] = torch.from_numpy(pack_bytes(value, signed=True))
            value = {}
        entry[item.name] = list(value) if isinstance(value, tuple) else value
    return entry
