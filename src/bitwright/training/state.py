# SPDX-License-Identifier: MIT
"""A training under way: how far it is, and the file from which another process can go on with it, to the bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.decode import decode
from bitwright.errors import FileFormatError
from bitwright.graph.state_file import StateFile
from bitwright.processes import from_main
from bitwright.training.optimizer import restore_slots, slots
from bitwright.training.settings import Checkpointing

FORMAT = "bitwright.training.3"
_WEIGHT, _SLOT = "model.", "optimizer."


@dataclass
class Progressed:
    """How far a training is.

    Attributes:
        losses: Mean loss of each finished epoch.
        steps: Optimizer steps so far.
        partial: Sum of the losses in the epoch that is not finished.
    """

    losses: list[float] = field(default_factory=list)
    steps: int = 0
    partial: float = 0.0

    def end_step(self, loss: float) -> None:
        self.steps += 1
        self.partial += loss

    def require_place(self, per_epoch: int, first: int, path: str | Path) -> None:
        """Refuse steps that are in another epoch than the one that is not finished.

        Args:
            per_epoch: Steps in an epoch.
            first: The epoch that the training began with.
            path: The path of the file that says so.

        Raises:
            FileFormatError: If they are.
        """
        finished = first + len(self.losses)
        if not 0 <= self.steps - finished * per_epoch <= per_epoch:
            raise FileFormatError(
                f"'{path}' is damaged: {finished} epochs of {per_epoch} steps are not {self.steps} steps."
            )

    def end_epoch(self, steps: int) -> None:
        """An epoch of this many steps is finished."""
        self.losses.append(self.partial / steps)
        self.partial = 0.0


class TrainingFile:
    """Where a training is kept: weights, buffers, what the optimizer remembers, and settings.

    Args:
        where: The file, and how often it is written.
        model: What is trained.
        optimizer: The optimizer of its parameters.
        settings: All that the result depends on, as JSON values; `epochs` may grow from one run to the next.
        writes: Whether this process writes, of several.

    Attributes:
        kept: Whether the file holds a state of this training.
    """

    def __init__(
        self,
        where: Checkpointing,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: Mapping[str, Any],
        *,
        writes: bool = True,
    ) -> None:
        self.path = Path(where.path)
        self.kept = False
        self._model = model
        self._optimizer = optimizer
        self._steps = where.steps
        self._writes = writes
        self._file = StateFile(
            self.path, FORMAT, work="training", settings=settings, growing=("epochs",), seconds=60 * where.minutes
        )

    def due(self, steps: int) -> bool:
        """Whether to write after so many steps."""
        return (self._steps is not None and steps % self._steps == 0) or self._file.due()

    def write(self, progress: Progressed) -> None:
        """Replace the file by the present state, atomically."""
        self.kept = True
        if not self._writes:
            return
        tensors = {_WEIGHT + name: value for name, value in self._model.state_dict().items()}
        tensors |= {_SLOT + name: value for name, value in slots(self._model, self._optimizer).items()}
        self._file.write(tensors, vars(progress))

    def begin(self, resume: bool) -> Progressed | None:
        """Put the last state into model and optimizer, in all processes; None where there is no file.

        Args:
            resume: Whether to go on from the file, if it exists.

        Raises:
            FileFormatError: If there is a file that is not to be gone on from; if it is damaged, or belongs to a training with
                another model or other settings.
        """
        found = from_main(partial(self._file.begin, resume))
        if found is None:
            return None
        tensors, progress = found
        load_weights(self._model, _under(_WEIGHT, tensors), self.path)
        restore_slots(self._model, self._optimizer, _under(_SLOT, tensors), self.path)
        self.kept = True
        return decode(Progressed, progress, f"'{self.path}' does not say how far the training is")


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], path: str | Path) -> None:
    """Put tensors from a file into a model of the same names and shapes.

    Raises:
        FileFormatError: If they are of another model.
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        faults = " ".join(line.strip() for line in str(error).splitlines()[1:])
        raise FileFormatError(f"'{path}' is of another model: {faults[:300]}") from error


def _under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
