# SPDX-License-Identifier: MIT
"""`bitwright sensitivity`: how much the loss suffers when each layer is quantized."""

from __future__ import annotations

from typing import Annotated

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, note, show
from bitwright.cli.options import Data, GraphFile, Json, Output, Seed


@app.command(
    epilog="Example: bitwright sensitivity resnet18.graph -d imagefolder:/data/imagenet -o resnet18.sensitivities.json"
)
def sensitivity(
    graph: GraphFile,
    data: Data,
    output: Output,
    metric: Annotated[
        str,
        typer.Option("--metric", help="hessian_trace, hutchinson_trace, empirical_fisher or loss_perturbation."),
    ] = "hessian_trace",
    images: Annotated[int, typer.Option("--images", "-n", min=1, help="Training images in the loss.")] = 512,
    relative_error: Annotated[
        float, typer.Option("--relative-error", min=0.0, help="Target for the standard error of each layer's trace.")
    ] = 0.05,
    max_probes: Annotated[
        int | None, typer.Option("--max-probes", min=2, help="Samples at most; by default as the metric needs.")
    ] = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Measure the Hessian trace of every layer, with its standard error, and how far each bit width moves its weights."""
    from bitwright.cli.models import load_data
    from bitwright.graph import Graph
    from bitwright.report import sensitivity_table
    from bitwright.sensitivity import measure_sensitivity

    network = Graph.load(graph)
    found = load_data(data, network.input_shape)
    chosen = found.calibration(min(images, len(found.train)), seed)
    with bar("measuring sensitivities") as progress:
        table = measure_sensitivity(
            network,
            *chosen,
            metric=metric,
            relative_error=relative_error,
            max_probes=max_probes,
            seed=seed,
            data=data,
            progress=progress,
        )
    table.save(output)
    show(table.to_dict(), as_json, lambda: sensitivity_table(table))
    missed = table.unconverged()
    if missed:
        note(f"warning: {len(missed)} layers missed the target: give more --max-probes, or a larger --relative-error.")
    note(f"wrote {output}")
