# SPDX-License-Identifier: MIT
"""Checkpoints of quantized models: safetensors and JSON, written atomically, never unpickled."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from torch import Tensor

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

MODEL_FORMAT = "bitwright.quantized.4"
_SLOT = "optimizer."


@dataclass(frozen=True)
class Trained:
    """How far a model was trained, for a training that goes on from its checkpoint.

    Attributes:
        epoch: Finished epochs.
        best_top1: The best accuracy on held-out images so far, in percent.
        momentum: The momentum of SGD.
        weight_decay: The weight decay of SGD.
        momenta: What the optimizer remembers, as `optimizer.slots` gives it.
    """

    epoch: int
    best_top1: float
    momentum: float
    weight_decay: float
    momenta: Mapping[str, Tensor] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class _Structure:
    """The JSON in the file of a QuantizedModel."""

    graph: Mapping[str, object]
    scheme: Mapping[str, object]
    quantizing: Mapping[str, object]
    free_norm: bool
    trained: Mapping[str, object] | None = None


def save_quantized(path: str | Path, model: QuantizedModel, trained: Trained | None = None) -> None:
    """Write a QuantizedModel: the network, its scheme, its weights and scales; and how far it was trained, if that is known."""
    structure = {
        "graph": model.plan.source.to_dict(),
        "scheme": model.plan.scheme.to_dict(),
        "quantizing": model.quantizing.to_dict(),
        "free_norm": model.free_norm,
    }
    tensors = dict(model.state_dict())
    if trained is not None:
        structure["trained"] = {name: value for name, value in asdict(trained).items() if name != "momenta"}
        tensors |= {_SLOT + name: value for name, value in trained.momenta.items()}
    write_bytes(path, serialize(tensors, MODEL_FORMAT, {"structure": json.dumps(structure)}))


def load_quantized(path: str | Path) -> QuantizedModel:
    """Read what `save_quantized` wrote, in evaluation mode.

    Raises:
        FileFormatError: If the file is missing, damaged, or no quantized model.
    """
    return load_trained(path)[0]


def load_trained(path: str | Path) -> tuple[QuantizedModel, Trained | None]:
    """Read what `save_quantized` wrote, and how far it was trained, if the file says.

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
    momenta = {name.removeprefix(_SLOT): value for name, value in tensors.items() if name.startswith(_SLOT)}
    load_weights(model, {name: value for name, value in tensors.items() if not name.startswith(_SLOT)}, path)
    trained = None if found.trained is None else decode(Trained, found.trained, where, given={"momenta": momenta})
    return model.eval(), trained
