# SPDX-License-Identifier: MIT
"""What every epoch did, for people and programs: a line of JSON each, a tracker, and the best model so far."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from bitwright.errors import FileFormatError
from bitwright.files import write_text
from bitwright.reading import parse_json, read_text
from bitwright.task import Scores
from bitwright.training.settings import Epoch, Hooks, Step, TrainSettings

FOREVER = 2**63
"""Epochs that no training has."""


@dataclass(frozen=True)
class EpochLines:
    """A file of one line of JSON for each epoch, which a kill leaves whole: each write replaces it.

    An epoch that is trained once more, after an interruption, replaces its line and those of later ones, so that none is there
    twice. `epoch` counts from 1.

    Attributes:
        path: The path of the file.
    """

    path: Path

    def before(self, epoch: int) -> list[dict[str, Any]]:
        """The lines of the epochs before one.

        Raises:
            FileFormatError: If the file holds something else.
        """
        if not self.path.exists():
            return []
        what = f"'{self.path}'"
        found = [parse_json(line, what) for line in read_text(self.path).splitlines() if line]
        for entry in found:
            if not isinstance(entry, dict) or type(entry.get("epoch")) is not int:
                raise FileFormatError(f"{what} holds no lines of epochs: move it away.")
        return [entry for entry in found if entry["epoch"] < epoch]

    def best(self, before: int = FOREVER) -> dict[str, Any] | None:
        """The line of the best epoch before one, the last of equals; None where none was kept."""
        return next((line for line in reversed(self.before(before)) if line.get("best")), None)

    def write(self, entry: Mapping[str, Any]) -> None:
        """Add the line of an epoch, in place of it and of all later ones.

        Raises:
            FileFormatError: If the file holds something else.
            OutputError: If it cannot be written.
        """
        lines = [*self.before(entry["epoch"]), entry]
        write_text(self.path, "".join(json.dumps(line) + "\n" for line in lines))


@dataclass(frozen=True)
class Judged:
    """A model as it is after an epoch.

    Attributes:
        scores: What it reaches on held-out images.
        write: Keeps the model that was judged.
    """

    scores: Scores
    write: Callable[[], object]


@dataclass
class Recorder:
    """Follows a training, from its hooks.

    Attributes:
        lines: Where each epoch gets its line: `epoch`, `loss`, `lr` (of its last step), `seconds` (of its steps in this
            process) and `images_per_second`, and what `judge` found.
        settings: The settings of the training.
        processes: How many train together.
        judge: Judges the model after an epoch, and leaves it as it was; None where nothing is judged.
        keeps_best: Whether what is best so far is written, as `Judged.write` does; then lines say whether they are `best`.
        track: Called with the line and the number of the epoch, from 1.
    """

    lines: EpochLines
    settings: TrainSettings
    processes: int = 1
    judge: Callable[[nn.Module], Judged] | None = None
    keeps_best: bool = True
    track: Callable[[Mapping[str, Any], int], object] = lambda entry, epoch: None
    _seconds: float = 0.0
    _images: int = 0
    _rate: float = 0.0

    def hooks(self) -> Hooks:
        """For the training."""
        return Hooks(before_epoch=self._before_epoch, after_step=self._after_step, after_epoch=self._after_epoch)

    def _before_epoch(self, _: int) -> None:
        self._seconds, self._images = 0.0, 0

    def _after_step(self, step: Step) -> None:
        self._seconds += step.seconds
        self._images += len(step.targets) * self.processes
        self._rate = self.settings.rate(step.number - 1, step.per_epoch)

    def _after_epoch(self, epoch: Epoch) -> None:
        number = epoch.number + 1
        entry: dict[str, Any] = {
            "epoch": number,
            "loss": epoch.loss,
            "lr": self._rate,
            "seconds": self._seconds,
            "images_per_second": self._images / self._seconds if self._seconds else None,
        }
        if self.judge is not None:
            judged = self.judge(epoch.model)
            figures = judged.scores.to_dict()
            entry |= {
                name: value if math.isfinite(value) else None for name, value in figures.items() if name != "images"
            }
            if self.keeps_best:
                entry["best"] = self._is_best(judged.scores, number)
                if entry["best"]:  # before its line, which says that it is written
                    judged.write()
        self.lines.write(entry)
        self.track(entry, number)

    def _is_best(self, scores: Scores, number: int) -> bool:
        """Whether no epoch before has a better leading score: of equals, what was trained longer is kept."""
        former = self.lines.best(number)
        score = scores.scores[0]
        than = None if former is None else former.get(score.key)
        return math.isfinite(scores.leading) and (than is None or not score.better(than, scores.leading))
