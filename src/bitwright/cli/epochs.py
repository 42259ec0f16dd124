# SPDX-License-Identifier: MIT
"""What `bitwright train` keeps of its epochs: lines of figures, the best model so far, a tracker."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

    from bitwright.data import ImageData
    from bitwright.task import Task
    from bitwright.training import Hooks, TrainSettings

BATCH = 128


def lines_of(output: Path) -> Path:
    """Where the figures of the epochs of a training go."""
    return output.with_name(f"{output.name}.metrics.jsonl")


def best_of(output: Path) -> Path:
    """Where the best model goes, unless it is the last."""
    return output.with_name(f"{output.name}.best")


def tracked_in(output: Path) -> Path:
    """The folder of trackers that keep files."""
    return output.with_name(f"{output.name}.runs")


@dataclass(frozen=True)
class Followed:
    """How a training is followed.

    Attributes:
        output: The file that it makes.
        validates: Whether each epoch is judged on held-out images.
        track: A tracker, or None.
    """

    output: Path
    validates: bool = True
    track: str | None = None

    def best(self, epochs: int) -> dict[str, Any] | None:
        """The line of the best epoch, unless it is the last: then the file that was made is the best, and no other is left."""
        from bitwright.training import EpochLines

        line = EpochLines(lines_of(self.output)).best()
        if line is not None and line["epoch"] < epochs:
            return line
        best_of(self.output).unlink(missing_ok=True)
        if not epochs:  # what lies there is of a former training
            lines_of(self.output).unlink(missing_ok=True)
        return None

    @contextmanager
    def hooks(
        self,
        settings: TrainSettings,
        task: Task,
        images: ImageData,
        write: Callable[[Any, Path], object],
        *,
        settling: Tensor | None = None,
        keeps_best: bool = True,
    ) -> Iterator[Hooks | None]:
        """Follow a training, in the process that writes.

        Args:
            settings: The settings of the training.
            task: What the network is for.
            images: Of which the held-out ones judge.
            write: Writes a model to a file.
            settling: Images to settle batch norm on, in what is judged.
            keeps_best: Whether the best is kept.
        """
        import torch

        from bitwright.processes import rank_and_size
        from bitwright.training import EpochLines, Judged, Recorder, tracked
        from bitwright.training.evaluate import evaluate

        rank, processes = rank_and_size()
        if rank or not settings.epochs:
            yield None
            return

        def judge(model: nn.Module) -> Judged:
            # A copy, so that the training goes on as if nobody had looked.
            judged = copy.deepcopy(model).eval()
            device = next(judged.parameters()).device
            if settling is not None:
                judged.settle_norm([part.to(device) for part in torch.split(settling, BATCH)])  # type: ignore[operator]
            held_out = images.batches("test", BATCH, workers=settings.workers)
            scores = evaluate(lambda given: judged(given.to(device)), held_out, task=task)
            return Judged(scores, lambda: write(judged, best_of(self.output)))

        lines = EpochLines(lines_of(self.output))
        with tracked(self.track, self.output.name, tracked_in(self.output), vars(settings)) as log:
            yield Recorder(lines, settings, processes, judge if self.validates else None, keeps_best, log).hooks()


def settling_images(images: ImageData, seed: int) -> Tensor | None:
    """Those on which the batch norm of a trained network is settled; None where they are too few."""
    from bitwright.training.fine_tune import CALIBRATION_IMAGES
    from bitwright.training.norm import SETTLING_IMAGES

    count = min(CALIBRATION_IMAGES, len(images.train))
    return images.calibration(count, seed)[0] if count >= SETTLING_IMAGES else None
