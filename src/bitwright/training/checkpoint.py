# SPDX-License-Identifier: MIT
"""Checkpoints: safetensors and JSON, written atomically, never unpickled."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bitwright.errors import FileFormatError
from bitwright.files import write_bytes
from bitwright.graph.graph import Graph
from bitwright.graph.tensors_file import read_tensors, serialize
from bitwright.quantizer.plan import plan
from bitwright.scheme import Scheme
from bitwright.training.model import QuantizedModel
from bitwright.training.quantizers import Ranges

STATE_FORMAT = "bitwright.training.1"
MODEL_FORMAT = "bitwright.quantized.1"


@dataclass(frozen=True)
class TrainingState:
    """How far training is.

    Attributes:
        losses: Mean loss of each finished epoch.
        steps: Optimizer steps so far.
        partial: Sum of the losses in the epoch that is not finished.
    """

    losses: tuple[float, ...] = ()
    steps: int = 0
    partial: float = 0.0


def save_training_state(
    path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState
) -> None:
    """Write model, momenta and progress, so that training can go on exactly."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    for index, slot in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in slot.items() if isinstance(value, Tensor)}
    progress = {"losses": state.losses, "steps": state.steps, "partial": state.partial}
    write_bytes(path, serialize(tensors, STATE_FORMAT, {"progress": json.dumps(progress)}))


def load_training_state(path: str | Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> TrainingState:
    """Read what `save_training_state` wrote into `model` and `optimizer`.

    Raises:
        FileFormatError: If the file is damaged, or is of another model.
    """
    tensors, metadata = read_tensors(path, STATE_FORMAT)
    weights = {name.removeprefix("model."): value for name, value in tensors.items() if name.startswith("model.")}
    _load(model, weights, path)
    slots: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, slot = name.split(".", 2)
            slots.setdefault(int(index), {})[slot] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
    progress = json.loads(metadata["progress"])
    return TrainingState(tuple(progress["losses"]), int(progress["steps"]), float(progress["partial"]))


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
    _load(model, tensors, path)
    return model.eval()


def _load(model: nn.Module, tensors: dict[str, Tensor], path: str | Path) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        faults = " ".join(line.strip() for line in str(error).splitlines()[1:])
        raise FileFormatError(f"'{path}' is of another model: {faults[:300]}") from error
