# SPDX-License-Identifier: MIT
"""How a model is trained, where its training begins and is kept, and who is told about it: each a value."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from bitwright.graph.digest import digest

STEP_EPOCHS, STEP_FACTOR = 30, 0.1
"""Of the step schedule: after so many epochs the rate is multiplied by this (He et al. 2016, arXiv:1512.03385, section 3.4)."""


class Schedule(StrEnum):
    """How the learning rate falls: on one cosine to zero over all steps, or to a tenth each thirty epochs."""

    COSINE = "cosine"
    STEP = "step"


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """How a model is trained; the defaults suit fine-tuning from trained float weights.

    Attributes:
        epochs: Passes over the data, those before a start in between included; 0 only calibrates.
        learning_rate: At the start of the schedule.
        schedule: How it falls.
        batch_size: Images in a step.
        momentum: The momentum of SGD.
        nesterov: Whether a step looks ahead by its momentum.
        weight_decay: The weight decay of SGD.
        decay_all: Whether biases, batch norm and scales are decayed too, and not only weights of two axes or more.
        label_smoothing: The label smoothing of the cross entropy.
        data_fraction: Part of the training images used, the same part of every class.
        augment: Whether to crop and flip at random.
        drop_last: Whether the last batch of an epoch is left out where it is smaller.
        seed: The seed of the order, the augmentation, the part and dropout.
        workers: Processes that read images; None takes what suits the data.
    """

    epochs: int = 1
    learning_rate: float = 0.01
    schedule: Schedule = Schedule.COSINE
    batch_size: int = 128
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 1e-4
    decay_all: bool = False
    label_smoothing: float = 0.0
    data_fraction: float = 1.0
    augment: bool = True
    drop_last: bool = True
    seed: int = 0
    workers: int | None = None

    def rate(self, step: int, per_epoch: int) -> float:
        """The learning rate of a step.

        Args:
            step: How many are done, from the very beginning.
            per_epoch: Steps in an epoch.

        >>> steps = TrainSettings(learning_rate=1.0, schedule=Schedule.STEP, epochs=90)
        >>> [round(steps.rate(10 * epoch, 10), 3) for epoch in (0, 29, 30, 60)]
        [1.0, 1.0, 0.1, 0.01]
        """
        if self.schedule is Schedule.STEP:
            return self.learning_rate * STEP_FACTOR ** (step // per_epoch // STEP_EPOCHS)
        return self.learning_rate * (1 + math.cos(math.pi * step / (self.epochs * per_epoch))) / 2

    def descent(self) -> dict[str, Any]:
        """What decides the steps that follow from given batches, as JSON values."""
        of_the_data = ("batch_size", "data_fraction", "augment", "drop_last", "workers")
        return {name: value for name, value in asdict(self).items() if name not in of_the_data}

    def reading(self) -> dict[str, Any]:
        """What decides the batches of a data set, as JSON values."""
        return {name: getattr(self, name) for name in ("batch_size", "data_fraction", "augment", "drop_last")}


@dataclass(frozen=True)
class Start:
    """Where a training begins that goes on from a finished epoch.

    Attributes:
        epoch: How many are done.
        momenta: What the optimizer remembers of them, as `optimizer.slots` gives it; nothing starts it anew.
    """

    epoch: int = 0
    momenta: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}), repr=False)

    def settings(self) -> dict[str, Any]:
        """What the steps depend on, as JSON values."""
        names = sorted(self.momenta)
        return {"epoch": self.epoch, "momenta": digest(*(self.momenta[name] for name in names)) if names else None}


@dataclass(frozen=True)
class Checkpointing:
    """Where the state of a training is kept, and how often it is written.

    Attributes:
        path: The path of the file, written at the end of every epoch, atomically.
        minutes: From one write to the next within an epoch; longer where writing would take more than a tenth of the time.
        steps: Steps after which it is written besides.
        resume: Whether to start from it if it exists, in any process; without it, one that exists is refused.
        origin: What the weights depend on besides the arguments of the training, as JSON values: where the model and its images
            come from.
    """

    path: str | Path
    minutes: float = 1.0
    steps: int | None = None
    resume: bool = False
    origin: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True)
class Step:
    """A step of the optimizer, just done.

    Attributes:
        number: The number of steps so far, from the very beginning, this one included.
        epoch: Its epoch, from 0.
        index: Its place in the epoch, from 0.
        per_epoch: Steps in an epoch.
        loss: Before the step, the mean over all processes.
        outputs: The outputs of this process, shape (batch, *outputs), without gradient; of several outputs, the first.
        targets: What the task compares them with.
        waited: Seconds until the batch was there.
        seconds: In all, the waiting included.
    """

    number: int
    epoch: int
    index: int
    per_epoch: int
    loss: float
    outputs: Tensor = field(repr=False)
    targets: Tensor = field(repr=False)
    waited: float
    seconds: float


@dataclass(frozen=True)
class Epoch:
    """An epoch, just finished.

    Attributes:
        number: From 0.
        loss: Mean over its batches.
        momenta: What the optimizer remembers, for a `Start`.
        model: What is trained, in training mode.
    """

    number: int
    loss: float
    momenta: Mapping[str, Tensor] = field(repr=False)
    model: nn.Module = field(repr=False)


def _nothing(_: object) -> None:
    """Nobody is told."""


@dataclass(frozen=True, kw_only=True)
class Hooks:
    """Functions that the loop calls; each may evaluate the model, if it leaves it in training mode.

    Attributes:
        before_epoch: With the number of the epoch, from 0.
        before_step: With the number of steps done so far.
        after_step: With the step.
        after_epoch: With the epoch, before the state is written: what it does to the model is kept.
    """

    before_epoch: Callable[[int], object] = _nothing
    before_step: Callable[[int], object] = _nothing
    after_step: Callable[[Step], object] = _nothing
    after_epoch: Callable[[Epoch], object] = _nothing

    def counting_from(self, first: int) -> Hooks:
        """The same for a training whose epochs follow `first` others."""
        return replace(
            self,
            before_epoch=lambda epoch: self.before_epoch(first + epoch),
            after_step=lambda step: self.after_step(replace(step, epoch=first + step.epoch)),
            after_epoch=lambda epoch: self.after_epoch(replace(epoch, number=first + epoch.number)),
        )
