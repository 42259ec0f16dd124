# SPDX-License-Identifier: MIT
"""What commands print: results for people or for machines on stdout, progress on stderr."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bitwright.cli.announced import announced

stdout = Console()
stderr = Console(stderr=True)

LINE_SECONDS = 30.0
"""From one line of a log to the next, while work goes on."""


def show(value: Mapping[str, Any], as_json: bool, render: Callable[[], RenderableType]) -> None:
    """Print a result: as JSON, or as `render` draws it."""
    _say_announced()
    if as_json:
        typer.echo(json.dumps(value, indent=2, allow_nan=False))
    else:
        stdout.print(render())


def say(text: str) -> None:
    """Print a line of a result whole, however long it is: a command to copy, say."""
    stdout.print(text, markup=False, highlight=False, soft_wrap=True)


def note(text: str) -> None:
    """Tell a person something that is no result, such as where a file was written."""
    for line in (*announced(), text):
        stderr.print(line, markup=False, highlight=False, soft_wrap=True)


def _say_announced() -> None:
    """What was announced of work that has begun."""
    for line in announced():
        note(line)


class Bar:
    """What moves a bar, or writes lines: a `Progress` that also says, in words, what is being done.

    Args:
        drawn: The bar, on a terminal.
        task: What is done.
        lines: Whether to write a line every `LINE_SECONDS`, where there is no terminal to draw on.
    """

    def __init__(self, drawn: Progress, task: str, *, lines: bool) -> None:
        self._drawn = drawn
        self._task = self._now = task
        self._lines = lines
        self._id = drawn.add_task(task, total=None, figures="")
        self._begin = self._last = time.monotonic()

    def __call__(self, done: int, total: int, /, **figures: float) -> None:
        _say_announced()
        total = max(total, done)
        text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        self._drawn.update(self._id, completed=done, total=total, figures=text)
        if self._due():
            left = (self._last - self._begin) / max(done, 1) * (total - done)
            words = [f"{done:,} of {total:,}", *([text] if text else []), f"{timedelta(seconds=round(left))} left"]
            note(f"{self._now}: {', '.join(words)}")

    def stage(self, words: str) -> None:
        """Begin a part of the work: without a total until it has told one, while the time goes on."""
        _say_announced()
        self._now = f"{self._task}: {words}"
        self._begin = time.monotonic()
        self._drawn.update(self._id, description=self._now, completed=0, figures="")
        self._drawn.tasks[self._id].total = None  # which `update` takes for no change
        if self._due():
            note(f"{self._now} ...")

    def _due(self) -> bool:
        """Whether it is time for a line; what is short needs none but its last."""
        now = time.monotonic()
        if not self._lines or now - self._last < LINE_SECONDS:
            return False
        self._last = now
        return True


@contextmanager
def bar(task: str, *, shown: bool = True) -> Iterator[Bar]:
    """How far work is, with the time left, on stderr: as a bar that goes when done on a terminal, else as lines, for logs.

    Of several processes one shows it.
    """
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("eta"),
        TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
    )  # fmt: skip
    start, terminal = time.monotonic(), stderr.is_terminal
    with Progress(*columns, console=stderr, transient=True, disable=not (shown and terminal)) as progress:
        yield Bar(progress, task, lines=shown and not terminal)
    if shown:
        note(f"{task}: {time.monotonic() - start:.1f} s")
