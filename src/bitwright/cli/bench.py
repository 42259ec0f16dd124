# SPDX-License-Identifier: MIT
"""`bitwright bench`: exported files, timed side by side; `bitwright bench layers`: a latency table for the search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from bitwright.cli.allocate import parse_choices
from bitwright.cli.app import app
from bitwright.cli.console import bar, note, show
from bitwright.cli.numbers import MAX_THREADS, whole
from bitwright.cli.options import GraphFile, Json, Output
from bitwright.cli.outputs import reserve

FILES = "files"


class _FilesByDefault(TyperGroup):
    """`bench FILE...` means `bench files FILE...`."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [FILES, *args]
        return super().parse_args(ctx, args)


bench_app = typer.Typer(
    cls=_FilesByDefault,
    no_args_is_help=True,
    help="Time exported files side by side (bench FILE...), or the layers of a network (bench layers GRAPH).",
)
app.add_typer(bench_app, name="bench")


@bench_app.command(FILES, epilog="Example: bitwright bench float.onnx uniform8.onnx uniform4.onnx --batch 1 --batch 8")
def bench(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="For any engine; the first is the baseline.")],
    batch: Annotated[
        list[int] | None, typer.Option("--batch", "-b", parser=whole(1), help="Images at a time; repeatable.")
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", parser=whole(1, MAX_THREADS), help="That each engine may use.")
    ] = 1,
    rounds: Annotated[int, typer.Option("--rounds", parser=whole(1), help="Each runs all files in turn.")] = 15,
    engine: Annotated[
        str | None,
        typer.Option(
            "--engine",
            "-e",
            help="That runs all files; by default, the one that the end of a file's name tells.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Time files, each in its engine: interleaved, with medians and quartiles, load time, memory and size."""
    from rich.table import Table

    from bitwright.benchmark import environment, side_by_side

    with bar(f"timing {len(files)} files") as progress:
        found = side_by_side(
            {str(path): path for path in files},
            engine=engine,
            batches=batch or [1, 8],
            threads=threads,
            rounds=rounds,
            progress=progress,
        )

    def table() -> Table:
        columns = (
            "file",
            "engine",
            "batch",
            "ms",
            "quartiles",
            "speed-up",
            "quartiles",
            "load ms",
            "peak MB",
            "file MB",
        )
        drawn = Table(*columns, title=f"{environment().processor}, {threads} threads")
        for row in found:
            latency, speedup = row.latency_ms, row.speedup
            drawn.add_row(
                Path(row.name).name, row.engine, str(row.batch),
                f"{latency.median:.2f}", f"{latency.lower:.2f} - {latency.upper:.2f}",
                f"{speedup.median:.2f}", f"{speedup.lower:.2f} - {speedup.upper:.2f}", f"{row.load_ms:.0f}",
                f"{row.peak_memory_mb:.0f}", f"{row.file_bytes / 2**20:.2f}",
            )  # fmt: skip
        return drawn

    result = {
        "environment": environment().to_dict(), "threads": threads, "rounds": rounds, "rows": [row.to_dict() for row in found],
    }  # fmt: skip
    show(result, as_json, table)


@bench_app.command(epilog="Example: bitwright bench layers resnet18.graph --choices W4A4,W8A8 -o latency.json")
def layers(
    graph: GraphFile,
    output: Output,
    choices: Annotated[
        str, typer.Option("--choices", help="Precisions to measure: 2-8, or some such as W4A4,W4A8,W8A8.")
    ] = "W4A4,W8A8",
    engine: Annotated[str, typer.Option("--engine", "-e", help="One that reads ONNX files.")] = "onnxruntime",
    batch: Annotated[int, typer.Option("--batch", "-b", parser=whole(1), help="Images at a time.")] = 1,
    threads: Annotated[
        int, typer.Option("--threads", parser=whole(1, MAX_THREADS), help="That the engine may use.")
    ] = 1,
    rounds: Annotated[int, typer.Option("--rounds", parser=whole(1), help="Each runs all layers in turn.")] = 15,
    as_json: Json = False,
) -> None:
    """Time every distinct layer shape at every precision, and write the table that `allocate --latency-table` reads."""
    from rich.table import Table

    from bitwright.benchmark import environment, measure_layers
    from bitwright.graph import Graph

    reserve(output, reads=[graph])
    network = Graph.load(graph)
    with bar(f"timing the layers of {network.model}") as progress:
        found = measure_layers(
            network,
            parse_choices(choices),
            engine=engine,
            batch=batch,
            threads=threads,
            rounds=rounds,
            progress=progress,
        )
    found.table.save(output)

    def table() -> Table:
        title = f"{found.table.device}, {found.table.engine}, batch {batch}, {threads} threads: ms"
        drawn = Table("layer", "count", *map(str, found.whole_ms), title=title)
        for shape, count in found.counts.items():
            drawn.add_row(str(shape), str(count), *(f"{found.table.by_shape[shape][p]:.3f}" for p in found.whole_ms))
        drawn.add_section()
        drawn.add_row("sum over all layers", "", *(f"{found.sum_ms(precision):.3f}" for precision in found.whole_ms))
        drawn.add_row("whole network", "", *(f"{whole.median:.3f}" for whole in found.whole_ms.values()))
        drawn.add_row(
            "layers' part", "", *(f"{100 * found.explained(precision):.0f} %" for precision in found.whole_ms)
        )
        return drawn

    show({"environment": environment().to_dict(), **found.to_dict()}, as_json, table)
    note(f"wrote {output}")
