# SPDX-License-Identifier: MIT
"""The way from a model's name to an exported file, and the demonstration, in processes that are killed at some event.

`way.py WHAT FOLDER EVENT` goes on with what is in FOLDER, and kills itself at the event of that number (0: never). Events are the
moments of which the work tells its progress, and those before and after a file is flushed to the disk and renamed.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from bitwright.cli import main
from bitwright.cli.console import Bar
from bitwright.export.seal import NOT_CHECKED, stated
from bitwright.progress import Progress

Event = Callable[[], None]

TRAINING = ["--data-fraction", "0.1", "--batch-size", "50", "--epochs", "2", "--checkpoint-steps", "3", "--resume"]
FLOAT = ["cli.networks:small", "--image-size", "28", "--lr", "0.1", "--seed", "3"]
FALLING = ["--layerwise", "sensitivities.json", "--rung", "W8A8", "--rung", "W4A4"]
COMMANDS = {
    "float.graph": ["train", *FLOAT, "-d", "mnist-5k", *TRAINING],
    "sensitivities.json": [
        "sensitivity",
        "float.graph",
        "-d",
        "mnist-5k",
        "-n",
        "16",
        "--max-probes",
        "20",
        "--resume",
    ],
    "scheme.yaml": ["allocate", "float.graph", "sensitivities.json", "size0.5"],
    "checkpoint": ["train", "float.graph", "--scheme", "scheme.yaml", "-d", "mnist-5k", *TRAINING],
    "reconstructed": [
        "reconstruct",
        "float.graph",
        "-d",
        "mnist-5k",
        "--scheme",
        "scheme.yaml",
        "-n",
        "100",
        "--steps",
        "4",
        "-b",
        "16",
        "--checkpoint-minutes",
        "0",
        "--resume",
    ],
    "layerwise": ["train", "float.graph", "--scheme", "W2A4", *FALLING, "-d", "mnist-5k", *TRAINING],
    "integer": ["lower", "checkpoint"],
    "model.onnx": ["export", "integer"],
}
"""Each file, and the command that makes it."""

TIMED = ("latency.json", "table.json", "table.md", ".metrics.jsonl")
"""How files end that hold times, which no two runs have in common."""


def walk(folder: Path) -> None:
    """Run the commands whose file is not there yet, or whose work is unfinished."""
    os.chdir(folder)
    for name, arguments in COMMANDS.items():
        if not Path(name).exists() or Path(f"{name}.state").exists() or _unchecked(name):
            try:
                main([*arguments, "-o", name])
            except SystemExit as end:
                if end.code:
                    raise


def _unchecked(name: str) -> bool:
    """Whether a file was exported, and its process killed before it was run: it says so itself."""
    return name == "model.onnx" and stated(name)["checked"] == NOT_CHECKED


def demonstrate(folder: Path, event: Event) -> None:
    """The demonstration with a small network."""
    from bitwright.demo import DemoSettings, run_demo
    from bitwright.training import TrainSettings

    short = TrainSettings(epochs=1, data_fraction=0.1, batch_size=50)
    settings = DemoSettings(
        model="cli.networks:small",
        image_size=28,
        baseline=replace(short, learning_rate=0.1),
        quantized=short,
        sensitivity_images=16,
        max_probes=10,
    )

    def stage(task: str) -> AbstractContextManager[Progress]:
        return nullcontext(lambda done, total, /, **figures: event())

    run_demo(settings, folder, resume=True, stage=stage)


@contextmanager
def told(event: Event) -> Iterator[None]:
    """Call `event` whenever a bar moves, and around every flush and rename of a file."""

    def around(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            event()
            value = function(*arguments, **options)
            event()
            return value

        return call

    with (
        patch.object(Bar, "__call__", around(Bar.__call__)),
        patch.object(os, "fsync", around(os.fsync)),
        patch.object(os, "replace", around(os.replace)),
    ):
        yield


def go(what: str, folder: Path, event: Event) -> None:
    """The one or the other, with events."""
    with told(event):
        if what == "demo":
            demonstrate(folder, event)
        else:
            walk(folder)


def killed_at(number: int) -> Event:
    """An event that ends this process, without a chance to clean up, when it happens for the `number`-th time."""
    left = [number]

    def event() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return event


if __name__ == "__main__":
    go(sys.argv[1], Path(sys.argv[2]), killed_at(int(sys.argv[3])))
