# SPDX-License-Identifier: MIT
"""What commands print: results for people or for machines on stdout, progress on stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

stdout = Console()
stderr = Console(stderr=True)


def show(value: Mapping[str, Any], as_json: bool, render: Callable[[], RenderableType]) -> None:
    """Print a result: as JSON, or as `render` draws it."""
    if as_json:
        typer.echo(json.dumps(value, indent=2, allow_nan=False))
    else:
        stdout.print(render())


def note(text: str) -> None:
    """Tell a person something that is no result, such as where a file was written."""
    stderr.print(text, markup=False, highlight=False, soft_wrap=True)


class Bar:
    """What moves a bar: a `Progress` that also says, in words, what is being done."""

    def __init__(self, drawn: Progress, task: str) -> None:
        self._drawn = drawn
        self._task = task
        self._id = drawn.add_task(task, total=None, figures="")

    def __call__(self, done: int, total: int, /, **figures: float) -> None:
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._drawn.update(self._id, completed=done, total=max(total, done), figures=text)

    def stage(self, words: str) -> None:
        """Begin a part of the work: without a total until it has told one, while the time goes on."""
        self._drawn.update(self._id, description=f"{self._task}: {words}", completed=0, figures="")
        self._drawn.tasks[self._id].total = None  # which `update` takes for no change


@contextmanager
def bar(task: str, *, shown: bool = True) -> Iterator[Bar]:
    """A progress bar with the time left, on stderr, where that is a terminal; gone when done. Of several processes one shows."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("eta"),
        TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
    )  # fmt: skip
    start = time.monotonic()
    with Progress(*columns, console=stderr, transient=True, disable=not (shown and stderr.is_terminal)) as progress:
        yield Bar(progress, task)
    if shown:
        note(f"{task}: {time.monotonic() - start:.1f} s")
