# SPDX-License-Identifier: MIT
"""Checkpoints of quantized models: safetensors and JSON, written atomically, never unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bitwright.decode import decode
from bitwright.errors import FileFormatError, SchemeError, TrainingError
from bitwright.files import write_bytes
from bitwright.graph.graph import Graph
from bitwright.graph.tensors_file import read_structure, serialize
from bitwright.quantizer.plan import plan
from bitwright.scheme import Scheme
from bitwright.training.model import QuantizedModel
from bitwright.training.quantizers import QuantizerSettings
from bitwright.training.state import load_weights

MODEL_FORMAT = "bitwright.quantized.2"


@dataclass(frozen=True)
class _Structure:
    """The JSON in the file of a QuantizedModel."""

    graph: Mapping[str, object]
    scheme: Mapping[str, object]
    quantizing: Mapping[str, object]
    free_norm: bool


def save_quantized(path: str | Path, model: QuantizedModel) -> None:
    """Write a QuantizedModel: the network, its scheme, its weights and scales."""
    structure = {
        "graph": model.plan.source.to_dict(),
        "scheme": model.plan.scheme.to_dict(),
        "quantizing": model.quantizing.to_dict(),
        "free_norm": model.free_norm,
    }
    write_bytes(path, serialize(model.state_dict(), MODEL_FORMAT, {"structure": json.dumps(structure)}))


def load_quantized(path: str | Path) -> QuantizedModel:
    """Read what `save_quantized` wrote, in evaluation mode.

    Raises:
        FileFormatError: If the file is missing, damaged, or no quantized model.
    """
    tensors, structure = read_structure(path, MODEL_FORMAT, "structure")
    where = f"'{path}'"
    found = decode(_Structure, structure, where)
    prefix = "network."
    parameters = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    graph = Graph.from_dict(found.graph, parameters, where)
    scheme = Scheme.from_dict(found.scheme, where)
    try:
        planned, quantizing = plan(graph, scheme), decode(QuantizerSettings, found.quantizing, where)
    except (SchemeError, TrainingError) as error:
        raise FileFormatError(f"{where}: {error}") from error
    model = QuantizedModel(planned, quantizing, free_norm=found.free_norm)
    load_weights(model, tensors, path)
    return model.eval()
