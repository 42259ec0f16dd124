# SPDX-License-Identifier: MIT
"""`bitwright demo`: the whole way, on data that is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, note, show
from bitwright.cli.interruption import resumable
from bitwright.cli.numbers import whole
from bitwright.cli.options import Json, Seed


@app.command(epilog="Example: bitwright demo --data fashion-mnist --epochs 3")
def demo(
    data: Annotated[
        str, typer.Option("--data", "-d", metavar="NAME", help="mnist-5k (embedded) or fashion-mnist[:DIR].")
    ] = "mnist-5k",
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            parser=whole(1),
            help="Of the float baseline; each scheme gets a third. By default as data needs.",
        ),
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to write.  [default: runs/demo-DATA]", file_okay=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted job in the folder.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train ResNet20, search bit widths, fine-tune, lower, export, verify and time: the zoo's table, for real."""
    from bitwright.demo import preset, run_demo

    settings = preset(data, epochs=epochs, seed=seed)
    target = folder or Path("runs") / f"demo-{data.partition(':')[0]}"
    with resumable(target):
        result = run_demo(settings, target, resume=resume, stage=bar)
    show(result.table.to_dict(), as_json, result.table.rich)
    for scheme, effect in result.table.facts["certification"].items():
        share = 100 * effect["differing"] / effect["elements"]
        before, after = (
            round(effect[when]["top1_percent"] * effect[when]["images"] / 100) for when in ("before", "after")
        )
        note(
            f"proving {scheme} moved {share:.2g} % of its integers, and its right guesses from {before:,} to {after:,}"
        )
    for path in result.files:
        note(f"wrote {path}")
