# SPDX-License-Identifier: MIT
"""A training under way: how far it is, and the file from which another process can go on with it, to the bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.decode import decode
from bitwright.errors import FileFormatError
from bitwright.graph.state_file import StateFile
from bitwright.sensitivity.processes import from_main

FORMAT = "bitwright.training.2"
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

    def end_epoch(self, steps: int) -> None:
        """An epoch of this many steps is finished."""
        self.losses.append(self.partial / steps)
        self.partial = 0.0


class TrainingFile:
    """Where a training is kept: weights, buffers and the optimizer's slots by the names of their parameters, and settings.

    Indices would not do for the slots: an optimizer counts parameters in the order in which it was given them.

    Args:
        path: Of the file.
        model: What is trained.
        optimizer: Of its parameters.
        settings: All that the result depends on, as JSON values; `epochs` may grow from one run to the next.
        minutes: From one write to the next, except at the ends of epochs.
        steps: Between two writes, besides; None for none.
        writes: Whether this process writes, of several.

    Attributes:
        kept: Whether the file holds a state of this training.
    """

    def __init__(
        self,
        path: str | Path,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        settings: Mapping[str, Any],
        *,
        minutes: float,
        steps: int | None = None,
        writes: bool = True,
    ) -> None:
        self.path = Path(path)
        self.kept = False
        self._model = model
        self._optimizer = optimizer
        self._steps = steps
        self._writes = writes
        self._file = StateFile(
            path, FORMAT, work="training", settings=settings, growing=("epochs",), seconds=60 * minutes
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
        for name, parameter in self._optimized():
            slots = self._optimizer.state.get(parameter, {})
            tensors |= {f"{_SLOT}{name}.{slot}": value for slot, value in slots.items() if isinstance(value, Tensor)}
        self._file.write(tensors, vars(progress))

    def resume(self) -> Progressed | None:
        """Put the last state into model and optimizer, in all processes; None where there is no file.

        Raises:
            FileFormatError: If the file is damaged, or belongs to a training with another model or other settings.
        """
        found = from_main(self._file.read)
        if found is None:
            return None
        tensors, progress = found
        self._restore(tensors)
        self.kept = True
        return decode(Progressed, progress, f"'{self.path}' does not say how far the training is")

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        load_weights(self._model, _under(_WEIGHT, tensors), self.path)
        kept: dict[str, dict[str, Tensor]] = {}
        for key, value in _under(_SLOT, tensors).items():
            name, _, slot = key.rpartition(".")
            kept.setdefault(name, {})[slot] = value
        for name, parameter in self._optimized():
            slots = kept.pop(name, {})
            if any(value.shape != parameter.shape for value in slots.values()):
                raise FileFormatError(f"'{self.path}' is of another model: '{name}' has another shape there.")
            # In the memory layout of the parameter, as the optimizer makes them itself.
            self._optimizer.state[parameter] = {
                slot: torch.empty_like(parameter).copy_(value) for slot, value in slots.items()
            }
        if kept:
            raise FileFormatError(f"'{self.path}' is of another model: nothing here is called '{next(iter(kept))}'.")

    def _optimized(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The parameters that the optimizer moves, with their names in the model."""
        moved = {id(parameter) for group in self._optimizer.param_groups for parameter in group["params"]}
        return ((name, value) for name, value in self._model.named_parameters() if id(value) in moved)


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
