# SPDX-License-Identifier: MIT
"""`bitwright explain`: one page about what a search chose, and what became of the signal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitwright.cli.app import app
from bitwright.cli.compare_layers import compared_on
from bitwright.cli.console import note, show
from bitwright.cli.ignored import refuse_ignored
from bitwright.cli.numbers import whole
from bitwright.cli.options import Json, Output, Seed
from bitwright.cli.outputs import reserve
from bitwright.cli.preprocessing import reads_images

if TYPE_CHECKING:
    from bitwright.data import Preprocessing

_BESIDE = "by default, that of the same name beside INTEGERS"


@app.command(epilog="Example: bitwright explain resnet18.integer --data imagefolder:/data/imagenet -o resnet18.html")
@reads_images
def explain(
    context: typer.Context,
    model: Annotated[
        Path, typer.Argument(metavar="INTEGERS", help="A file that `bitwright auto` or `bitwright lower` wrote.")
    ],
    output: Output,
    graph: Annotated[
        Path | None, typer.Option("--graph", help=f"The float network; {_BESIDE}.", dir_okay=False)
    ] = None,
    sensitivities: Annotated[
        Path | None,
        typer.Option("--sensitivities", help=f"What the search believed; {_BESIDE}, if there is one.", dir_okay=False),
    ] = None,
    result: Annotated[
        Path | None,
        typer.Option("--result", help=f"What `bitwright auto` measured; {_BESIDE}, if there is one.", dir_okay=False),
    ] = None,
    latency_table: Annotated[
        Path | None,
        typer.Option("--latency-table", help=f"Milliseconds of layers; {_BESIDE}, if there is one.", dir_okay=False),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", "-d", metavar="NAME", help="Compare float and integers layer by layer on its images."),
    ] = None,
    images: Annotated[int, typer.Option("--images", "-n", parser=whole(1), help="How many; of --data.")] = 64,
    seed: Seed = 0,
    as_json: Json = False,
    *,
    asked: Preprocessing,
) -> None:
    """Write one HTML file, which needs no other: why each layer has its bits, and where the signal goes.

    With what every other choice would cost and save, certificates in words, and, after `bitwright auto`, the frontier with what
    was measured on it.
    """
    from rich.text import Text

    from bitwright.allocation import LatencyTable
    from bitwright.auto import Searched
    from bitwright.auto.settings import EVERY_WIDTH
    from bitwright.graph import Graph
    from bitwright.integer import load_integer
    from bitwright.report import Explained, where_it_falls
    from bitwright.report import explain as write
    from bitwright.sensitivity import SensitivityTable

    if data is None:
        reason = "no layers are compared. Name images with --data."
        refuse_ignored(context, reason, "images", "seed", *asked.to_dict())
    graph = graph or model.with_suffix(".graph")
    sensitivities = sensitivities or _there(model.with_suffix(".sensitivities.json"))
    result = result or _there(model.with_suffix(".json"))
    latency_table = latency_table or _there(model.with_suffix(".latency.json"))
    reserve(output, reads=[model, graph, sensitivities, result, latency_table])
    integers, network = load_integer(model), Graph.load(graph)
    searched = None if result is None else Searched.load(result)
    table = None if sensitivities is None else SensitivityTable.load(sensitivities)
    latency = None if latency_table is None else LatencyTable.load(latency_table)
    # What takes time comes after all that can be refused.
    compared = () if data is None else compared_on(data, network, integers, images, seed, asked)
    choices = (searched.choices if searched is not None else ()) or EVERY_WIDTH
    write(Explained(network, integers, table, choices, compared, searched, latency), output)
    where = where_it_falls(compared) if compared else "no layers were compared, for which it takes --data"
    facts = {"file": str(output), "size_bytes": output.stat().st_size, "compared_layers": len(compared), "where": where}
    show(facts, as_json, lambda: Text(f"{integers.model}, {integers.scheme.name}: {where}"))
    note(f"wrote {output}")


def _there(path: Path) -> Path | None:
    return path if path.is_file() else None
