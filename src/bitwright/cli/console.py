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

import bitwright.progress

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


@contextmanager
def bar(task: str, *, shown: bool = True) -> Iterator[bitwright.progress.Progress]:
    """A progress bar with the time left, on stderr, where that is a terminal; gone when done. Of several processes one shows."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("eta"),
        TimeRemainingColumn(), TextColumn("{task.fields[figures]}"),
    )  # fmt: skip
    start = time.monotonic()
    with Progress(*columns, console=stderr, transient=True, disable=not (shown and stderr.is_terminal)) as progress:
        drawn = progress.add_task(task, total=None, figures="")

        def update(done: int, total: int, /, **figures: float) -> None:
            text = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            progress.update(drawn, completed=done, total=max(total, done), figures=text)

        yield update
    if shown:
        note(f"{task}: {time.monotonic() - start:.1f} s")
