# SPDX-License-Identifier: MIT
"""`bitwright sensitivity`: how much the loss suffers when each layer is quantized."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, note, show
from bitwright.cli.ignored import refuse_ignored
from bitwright.cli.interruption import require_resumed, resumable
from bitwright.cli.numbers import real, whole
from bitwright.cli.options import DataOrNone, GraphFile, Json, OfOutput, Output, Seed, TaskName
from bitwright.cli.outputs import reserve
from bitwright.cli.preprocessing import reads_images
from bitwright.cli.processes import join_processes, leave_processes

if TYPE_CHECKING:
    from bitwright.data import Preprocessing

_IMAGES = 512


@app.command(
    epilog="Example: bitwright sensitivity resnet18.graph -d imagefolder:/data/imagenet -o resnet18.sensitivities.json"
)
@reads_images
def sensitivity(
    context: typer.Context,
    graph: GraphFile,
    data: DataOrNone,
    output: Output,
    task: TaskName = "classification",
    of_output: OfOutput = None,
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            help="gauss_newton_trace, hutchinson_trace, empirical_fisher, top_eigenvalue or loss_perturbation.",
        ),
    ] = "gauss_newton_trace",
    activations: Annotated[
        bool,
        typer.Option(
            "--activations/--weights-only", help="Whether to measure what layers read, too, besides their weights."
        ),
    ] = True,
    images: Annotated[
        int | None,
        typer.Option(
            "--images", "-n", parser=whole(1), help="Training images in the loss: 512; or made, with --data none: 128."
        ),
    ] = None,
    relative_error: Annotated[
        float,
        typer.Option("--relative-error", parser=real(0.0), help="Target for the standard error of each layer's trace."),
    ] = 0.05,
    max_probes: Annotated[
        int | None,
        typer.Option("--max-probes", parser=whole(2), help="Samples at most; by default as the metric needs."),
    ] = None,
    micro_batch: Annotated[
        int, typer.Option("--micro-batch", parser=whole(1), help="Images in one pass: what bounds the memory.")
    ] = 64,
    device: Annotated[
        str | None, typer.Option("--device", help="Where to compute, for instance cuda; by default on the processor.")
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="File for partial results; OUTPUT.state by default.", dir_okay=False),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after an interruption, from the checkpoint.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
    *,
    asked: Preprocessing,
) -> None:
    """Measure the curvature of the loss in every layer, with its standard error, and how far each bit width moves its weights.

    Under torchrun all processes share the work, and the first one writes the table.
    """
    if metric == "loss_perturbation":
        refuse_ignored(context, "this metric measures each loss once.", "max_probes")
    state = checkpoint or output.with_name(f"{output.name}.state")
    from bitwright.cli.data_free import data_for_graph, kept_in
    from bitwright.cli.models import class_outputs
    from bitwright.graph import Graph
    from bitwright.report import sensitivity_table
    from bitwright.sensitivity import SensitivitySettings, measure_sensitivity
    from bitwright.sensitivity.loss import judged_outputs
    from bitwright.sensitivity.metrics import find_metric
    from bitwright.task import load_task

    settings = SensitivitySettings(
        metric=metric,
        activations=activations,
        relative_error=relative_error,
        max_probes=max_probes,
        micro_batch=micro_batch,
        seed=seed,
    )
    find_metric(metric)
    kept = kept_in(output)
    reserve(output, state, kept, reads=[graph])
    require_resumed(state, resume)
    main, own_device = join_processes(device)
    network = Graph.load(graph)
    if own_device is not None:
        network = network.with_parameters({name: tensor.to(own_device) for name, tensor in network.parameters.items()})
    purpose = load_task(task)
    shape = next(iter(judged_outputs(network, purpose, of_output).values()))
    source = data_for_graph(
        data,
        network,
        kept,
        label_free=purpose.label_free,
        asked=asked,
        outputs=class_outputs(purpose, shape),
        count=images,
        seed=seed,
    )
    network = network.reading(source.preprocessing, data)
    with resumable(state, kept):
        found = source.images()
        chosen = found.calibration(min(images or _IMAGES, len(found.train)), seed)
        with bar("measuring sensitivities", shown=main) as progress:
            table = measure_sensitivity(
                network,
                *chosen,
                settings,
                task=purpose,
                output=of_output,
                data=data,
                checkpoint=state,
                resume=resume,
                progress=progress,
            )
    leave_processes()
    if not main:
        return
    table.save(output)
    state.unlink(missing_ok=True)
    kept.unlink(missing_ok=True)
    show(table.to_dict(), as_json, lambda: sensitivity_table(table))
    missed = table.unconverged()
    if missed:
        note(f"warning: {len(missed)} layers missed the target: give more --max-probes, or a larger --relative-error.")
    note(f"wrote {output}")
