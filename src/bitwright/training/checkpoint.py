# SPDX-License-Identifier: MIT
"""Checkpoints of quantized models: safetensors and JSON, written atomically, never unpickled."""

from __future__ import annotations

import json
from pathlib import Path

from bitwright.files import write_bytes
from bitwright.graph.graph import Graph
from bitwright.graph.tensors_file import read_tensors, serialize
from bitwright.quantizer.plan import plan
from bitwright.scheme import Scheme
from bitwright.training.model import QuantizedModel
from bitwright.training.quantizers import Ranges
from bitwright.training.state import load_weights

MODEL_FORMAT = "bitwright.quantized.1"


def save_quantized(path: str | Path, model: QuantizedModel) -> None:
    """Write a QuantizedModel: the network, its scheme, its weights and scales."""
    structure = {
        "graph": model.plan.source.to_dict(),
        "scheme": model.plan.scheme.to_dict(),
        "ranges": str(model.ranges),
        "momentum": model.momentum,
        "free_norm": model.free_norm,
    }
    write_bytes(path, serialize(model.state_dict(), MODEL_FORMAT, {"structure": json.dumps(structure)}))


def load_quantized(path: str | Path) -> QuantizedModel:
    """Read what `save_quantized` wrote, in evaluation mode.

    Raises:
        FileFormatError: If the file is missing, damaged, or no quantized model.
    """
    tensors, metadata = read_tensors(path, MODEL_FORMAT)
    structure = json.loads(metadata["structure"])
    prefix = "network."
    parameters = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    graph = Graph.from_dict(structure["graph"], parameters)
    scheme = Scheme.from_dict(structure["scheme"], where=str(path))
    model = QuantizedModel(
        plan(graph, scheme),
        Ranges(structure["ranges"]),
        momentum=structure["momentum"],
        free_norm=structure["free_norm"],
    )
    load_weights(model, tensors, path)
    return model.eval()
