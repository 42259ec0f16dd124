# SPDX-License-Identifier: MIT
"""`bitwright verify`: every engine against the reference executor, on real images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, note, show
from bitwright.cli.numbers import MAX_THREADS, whole
from bitwright.cli.options import BatchSize, Data, Json, Seed


@app.command(epilog="Example: bitwright verify resnet18.w4a4.integer --data imagefolder:/data/imagenet --images 1000")
def verify(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A file that `bitwright lower` wrote.")],
    data: Data,
    engine: Annotated[
        list[str] | None,
        typer.Option("--engine", "-e", help="By default, every installed one that can be exact; repeatable."),
    ] = None,
    target: Annotated[
        str, typer.Option("--target", help="The CPUs that the files are made for: any, avx2 or vnni.")
    ] = "any",
    images: Annotated[
        int | None, typer.Option("--images", parser=whole(1), help="Of the test split; by default, all.")
    ] = None,
    batch_size: BatchSize = 100,
    threads: Annotated[
        int, typer.Option("--threads", parser=whole(1, MAX_THREADS), help="That each engine may use.")
    ] = 1,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Export for each engine, run it at every optimisation level, and count equal int32 logits; one that differs fails."""
    from rich.table import Table

    from bitwright.benchmark import environment
    from bitwright.benchmark import verify as compare_all
    from bitwright.cli.models import load_data
    from bitwright.errors import unknown_name
    from bitwright.export import Target
    from bitwright.integer import IntegerModel

    if target not in list(Target):
        raise unknown_name("target", target, list(Target))
    loaded = IntegerModel.load(model)
    found = load_data(data, loaded.input_shape, seed)
    count = min(images or len(found.test), len(found.test))
    starts = range(0, count, batch_size)
    batches = (found.test.read(range(start, min(start + batch_size, count)))[0] for start in starts)
    with bar(f"verifying {loaded.model}, {loaded.scheme.name}") as progress:
        results = compare_all(
            loaded,
            batches,
            engine,
            target=Target(target),
            threads=threads,
            total=len(starts),
            progress=progress,
            stage=progress.stage,
            refused=lambda name, error: note(f"left out {name}: {error}"),
        )

    def table() -> Table:
        drawn = Table("engine", "level", "equal images", "equal logits", "largest difference", title=str(model))
        for row in results:
            equal = row.logits - row.differing_logits
            drawn.add_row(
                row.engine, row.level, f"{row.equal_images:,} of {row.images:,}", f"{equal:,} of {row.logits:,}",
                str(row.largest_difference),
            )  # fmt: skip
        return drawn

    facts = {"file": str(model), "data": found.name, "target": target, "exact": all(row.exact for row in results)}
    rows = [row.to_dict() for row in results]
    show({**facts, "environment": environment().to_dict(), "rows": rows}, as_json, table)
    if not facts["exact"]:
        raise typer.Exit(1)
