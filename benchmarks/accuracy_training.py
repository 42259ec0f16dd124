# SPDX-License-Identifier: MIT
"""The trainings of `benchmarks/accuracy.py`: their usual settings, and what can be tried besides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from bitwright.data import ImageData
from bitwright.graph import FloatModel, Graph
from bitwright.reconstruction import ReconstructionSettings
from bitwright.training import Checkpointing, Distillation, Hooks, QuantizedModel, TrainSettings, fit

EPOCHS = {"qat2": 2, "qat10": 10}
SETTLING_BATCH = 128
QAT = TrainSettings(learning_rate=0.01, weight_decay=5e-4)

Settings = TypeVar("Settings")


@dataclass(frozen=True)
class Besides:
    """What a training can be given that is no setting of its steps.

    Attributes:
        distill: The part of the loss that a teacher has, which is the float network; 0 for none.
        temperature: Softens its outputs and those of the student.
        reconstruct: Whether the training starts from the reconstructed network.
        average: The part of an average of the parameters over steps that a step leaves; 0 for no average.
    """

    distill: float = Distillation.alpha
    temperature: float = Distillation.temperature
    reconstruct: bool = False
    average: float = 0.0


@dataclass
class Average:
    """Parameters averaged over the steps of a training (Polyak & Juditsky 1992, by an exponential of steps).

    Attributes:
        model: Whose parameters.
        keep: The part of the average that a step leaves.
    """

    model: QuantizedModel
    keep: float
    _sums: dict[str, Tensor] = field(default_factory=dict)

    def _trained(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, value) for name, value in self.model.named_parameters() if value.requires_grad)

    @torch.no_grad()
    def follow(self, step: object) -> None:
        """Take in the parameters after a step; the average of the first is they themselves."""
        for name, value in self._trained():
            self._sums.setdefault(name, value.clone()).lerp_(value, 1 - self.keep)

    @torch.no_grad()
    def put(self) -> None:
        """Give the model the average."""
        for name, value in self._trained():
            value.copy_(self._sums[name])


def with_changes(settings: Settings, changed: Sequence[str]) -> Settings:
    """Settings with others of some fields, each `name=number`; what is None by default is a whole number else."""
    values = {item.name: getattr(settings, item.name) for item in fields(settings)}  # type: ignore[arg-type]
    kinds = {name: int if value is None else type(value) for name, value in values.items()}
    pairs = [change.partition("=")[::2] for change in changed]
    if unknown := [name for name, _ in pairs if name not in kinds]:
        raise ValueError(f"expected one of {', '.join(kinds)}, got '{unknown[0]}'")
    return replace(settings, **{name: kinds[name](float(value)) for name, value in pairs})  # type: ignore[type-var]


def reconstruction_as_json(settings: ReconstructionSettings) -> dict[str, Any]:
    """The settings of a reconstruction as JSON values, those that depend on others by their number."""
    return asdict(settings) | {"network_steps": settings.all_network_steps}


def of_training(way: str, seed: int) -> tuple[TrainSettings, Besides]:
    """The settings of `qat2:NAME=NUMBER:...`, and what it is given besides."""
    name, *changed = way.split(":")
    names = {item.name for item in fields(Besides)}
    besides = with_changes(Besides(), [change for change in changed if change.partition("=")[0] in names])
    own = [change for change in changed if change.partition("=")[0] not in names]
    return with_changes(replace(QAT, epochs=EPOCHS[name], seed=seed), own), besides


def train(
    model: QuantizedModel,
    graph: Graph,
    data: ImageData,
    images: Tensor,
    settings: TrainSettings,
    besides: Besides,
    checkpoint: Checkpointing,
) -> None:
    """Train a calibrated model in place, on a GPU if there is one, and settle its batch norm on the calibration images."""
    distillation = None
    if besides.distill:
        teacher = FloatModel(graph).eval().requires_grad_(False)
        distillation = Distillation(teacher, besides.distill, besides.temperature)
    average = Average(model, besides.average) if besides.average else None
    hooks = Hooks() if average is None else Hooks(after_step=average.follow)
    fit(model, data, settings, distillation=distillation, hooks=hooks, checkpoint=checkpoint)
    if average is not None:
        average.put()
    device = next(model.parameters()).device
    model.settle_norm([part.to(device) for part in torch.split(images, SETTLING_BATCH)])
    checkpoint.path.unlink(missing_ok=True)


def as_json(settings: TrainSettings, besides: Besides) -> dict[str, Any]:
    """All of them, as JSON values."""
    return {**asdict(settings), "besides": asdict(besides)}
