# SPDX-License-Identifier: MIT
"""Trackers of experiments that others made, through Accelerate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from bitwright.errors import unknown_name
from bitwright.extras import require

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")


def require_tracker(name: str) -> None:
    """Refuse a tracker that is unknown or not installed, before anything is computed.

    Raises:
        UnknownNameError: If there is none of this name.
        MissingLibraryError: If it is not installed: it names the extra.
    """
    if name not in TRACKERS:
        raise unknown_name("tracker", name, TRACKERS)
    require(name, f"--track {name}")


@contextmanager
def tracked(
    name: str | None, run: str, folder: Path, settings: Mapping[str, Any]
) -> Iterator[Callable[[Mapping[str, Any], int], None]]:
    """A run of a tracker, from its beginning to its end.

    Args:
        name: One of `TRACKERS`; None tells nobody.
        run: The name of the run.
        folder: Where what is kept in files is kept.
        settings: What the run is described by; of these, numbers, texts and truth values.

    Returns:
        What to call with the figures of an epoch and its number.

    Raises:
        UnknownNameError: If there is no tracker of this name.
        MissingLibraryError: If it is not installed.
    """
    if name is None:
        yield lambda figures, epoch: None
        return
    require_tracker(name)
    accelerator = Accelerator(log_with=name, project_dir=folder)
    plain = {key: value for key, value in settings.items() if type(value) in (bool, int, float, str)}
    accelerator.init_trackers(run, plain)

    def log(figures: Mapping[str, Any], epoch: int) -> None:
        accelerator.log({key: value for key, value in figures.items() if value is not None}, step=epoch)

    try:
        yield log
    finally:
        for tracker in accelerator.trackers:  # not `end_training`, which also parts processes
            tracker.finish()
