# SPDX-License-Identifier: MIT
"""`bitwright bench`: exported files, timed side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, show
from bitwright.cli.options import Json


@app.command(epilog="Example: bitwright bench float.onnx uniform8.onnx uniform4.onnx --batch 1 --batch 8")
def bench(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="ONNX files; the first is the baseline.")],
    batch: Annotated[
        list[int] | None, typer.Option("--batch", "-b", min=1, help="Images at a time; repeatable.")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="That the engine may use.")] = 1,
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Each runs all files in turn.")] = 15,
    as_json: Json = False,
) -> None:
    """Time files in ONNX Runtime: interleaved, with medians and quartiles, load time, memory and size."""
    from rich.table import Table

    from bitwright.benchmark import environment, side_by_side

    with bar(f"timing {len(files)} files") as progress:
        found = side_by_side(
            {str(path): path for path in files},
            batches=batch or [1, 8],
            threads=threads,
            rounds=rounds,
            progress=progress,
        )

    def table() -> Table:
        columns = ("file", "batch", "ms", "quartiles", "speed-up", "quartiles", "load ms", "peak MB", "file MB")
        drawn = Table(*columns, title=f"{environment().processor}, {threads} threads")
        for row in found:
            latency, speedup = row.latency_ms, row.speedup
            drawn.add_row(
                Path(row.name).name, str(row.batch), f"{latency.median:.2f}", f"{latency.lower:.2f} - {latency.upper:.2f}",
                f"{speedup.median:.2f}", f"{speedup.lower:.2f} - {speedup.upper:.2f}", f"{row.load_ms:.0f}",
                f"{row.peak_memory_mb:.0f}", f"{row.file_bytes / 2**20:.2f}",
            )  # fmt: skip
        return drawn

    result = {
        "environment": environment().to_dict(), "threads": threads, "rounds": rounds, "rows": [row.to_dict() for row in found],
    }  # fmt: skip
    show(result, as_json, table)
