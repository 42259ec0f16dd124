# SPDX-License-Identifier: MIT
"""The lines of `quant_train.py`, in the published format: scripts that read ` * Acc@1` and `Best acc` go on to work."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.files import naming

if TYPE_CHECKING:
    from torch import Tensor

    from bitwright.training import Step


class Log:
    """Prints lines, and keeps them with the time at the end of a file; of several processes one does."""

    def __init__(self, path: Path, *, shown: bool = True) -> None:
        self.path = path
        self.shown = shown

    def __call__(self, line: str) -> None:
        if not self.shown:
            return
        print(line, flush=True)
        with naming(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a", encoding="utf-8") as file:
                file.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} - {line}\n")


class Meter:
    """The last value of a figure and its mean, weighted by images.

    >>> meter = Meter("Acc@1", "{:6.2f}")
    >>> meter.add(50.0, 2)
    >>> meter.add(100.0, 2)
    >>> str(meter)
    'Acc@1 100.00 ( 75.00)'
    """

    def __init__(self, name: str, form: str) -> None:
        self._text = f"{name} {form} ({form})"
        self._last = self._sum = 0.0
        self._count = 0

    def add(self, value: float, count: int) -> None:
        self._last = value
        self._sum += value * count
        self._count += count

    def __str__(self) -> str:
        return self._text.format(self._last, self._sum / max(1, self._count))


class Lines:
    """A line for every `every`-th batch, as `Epoch: [0][ 10/100]	Time  0.120 ( 0.131)	…	Acc@5 100.00 ( 93.75)`.

    Args:
        log: Prints them.
        every: Batches from one line to the next.
        waiting: Whether they tell how long each batch was waited for.
    """

    def __init__(self, log: Log, every: int, *, waiting: bool) -> None:
        self._log = log
        self._every = every
        self._times = [Meter(name, "{:6.3f}") for name in (("Time", "Data") if waiting else ("Time",))]
        self._loss = Meter("Loss", "{:.4e}")
        self._right = [Meter(f"Acc@{best}", "{:6.2f}") for best in (1, 5)]

    def add(
        self,
        head: str,
        index: int,
        total: int,
        times: tuple[float, ...],
        loss: float,
        right: tuple[float, ...],
        count: int,
    ) -> None:
        """Count a batch, and print its line if it is due.

        Args:
            head: What the line begins with.
            index: The index of the batch, from 0.
            total: Batches in all.
            times: Seconds in all, and until the batch was there.
            loss: Mean over the images.
            right: Percent right at the first guess, and among the first five.
            count: Images in the batch.
        """
        for meter, value in zip([*self._times, self._loss, *self._right], [*times, loss, *right], strict=True):
            meter.add(value, count)
        if index % self._every == 0:
            meters = "\t".join(map(str, [*self._times, self._loss, *self._right]))
            self._log(f"{head}[{index:{len(str(total))}d}/{total}]\t{meters}")


def right_percent(logits: Tensor, labels: Tensor) -> tuple[float, float]:
    """Percent right at the first guess, and among the first five (among all, with fewer classes)."""
    guesses = logits.topk(min(5, logits.shape[1]), 1).indices == labels.to(logits.device).unsqueeze(1)
    first, any_of_five = (100.0 * float(found.float().mean()) for found in (guesses[:, 0], guesses.any(1)))
    return first, any_of_five


class TrainingLines:
    """The lines of training, epoch by epoch."""

    def __init__(self, log: Log, every: int) -> None:
        self._log = log
        self._every = every
        self._lines = Lines(log, every, waiting=True)

    def before_epoch(self) -> None:
        """Begin new means."""
        self._lines = Lines(self._log, self._every, waiting=True)

    def after_step(self, step: Step) -> None:
        right = right_percent(step.outputs, step.targets)
        times = step.seconds, step.waited
        self._lines.add(
            f"Epoch: [{step.epoch}]", step.index, step.per_epoch, times, step.loss, right, len(step.targets)
        )


class TestLines:
    """The lines of a validation, from the logits of its batches."""

    def __init__(self, log: Log, every: int, batches: int) -> None:
        self._lines = Lines(log, every, waiting=False)
        self._batches = batches
        self._index = 0
        self._begun = time.monotonic()

    def __call__(self, logits: Tensor, labels: Tensor) -> None:
        from torch.nn.functional import cross_entropy

        now = time.monotonic()
        loss = float(cross_entropy(logits.float(), labels))
        right = right_percent(logits, labels)
        self._lines.add("Test: ", self._index, self._batches, (now - self._begun,), loss, right, len(labels))
        self._index += 1
        self._begun = now
