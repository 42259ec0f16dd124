# SPDX-License-Identifier: MIT
"""`bitwright evaluate`: the scores of anything that Bitwright writes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, show
from bitwright.cli.ignored import refuse_ignored
from bitwright.cli.options import BatchSize, Data, Json, OfOutput, TaskName, Workers
from bitwright.cli.preprocessing import reads_images

if TYPE_CHECKING:
    from bitwright.data import Preprocessing


@app.command(epilog="Example: bitwright evaluate resnet18.w4a4.integer --data imagefolder:/data/imagenet")
@reads_images
def evaluate(
    context: typer.Context,
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A graph, a checkpoint, an integer model or an exported file.")
    ],
    data: Data,
    task: TaskName = "classification",
    of_output: OfOutput = None,
    reference: Annotated[
        Path | None,
        typer.Option("--reference", help="Of --task agreement: the float network, a graph.", dir_okay=False),
    ] = None,
    split: Annotated[str, typer.Option("--split", help="train or test.")] = "test",
    batch_size: BatchSize = 100,
    workers: Workers = None,
    as_json: Json = False,
    *,
    asked: Preprocessing,
) -> None:
    """Judge a network on a data set: top-1 and top-5, or what its task is judged by."""
    from rich.text import Text

    from bitwright.benchmark import predictor
    from bitwright.cli.models import class_outputs, data_for_model
    from bitwright.task import load_task, require_outputs
    from bitwright.training import evaluate as judge

    found = predictor(model)
    chosen = load_task(task)
    alone = of_output is not None or not chosen.several_outputs
    found = found.of_output(of_output) if alone else found
    require_outputs(chosen, found.output_shape, found.description)
    if not chosen.label_free:
        refuse_ignored(context, f"the task {chosen.name} compares with labels.", "reference")
    elif reference is not None:
        imitated = predictor(reference)
        chosen = chosen.towards((imitated.of_output(of_output) if alone else imitated).predict)
    images = data_for_model(
        data,
        found.input_shape,
        known=found.preprocessing,
        asked=asked,
        outputs=class_outputs(chosen, found.output_shape),
    )
    with bar(f"evaluating {found.description}") as progress:
        batches = images.batches(split, batch_size, workers=workers)
        scores = judge(found.predict, batches, task=chosen, model=found.description, progress=progress)
    result = {
        "file": str(model),
        "what": found.description,
        "data": images.name,
        "split": split,
        "task": chosen.name,
        **scores.to_dict(),
    }
    line = f"{found.description} on {scores.images:,} images of {images.name} ({split}): {scores}"
    show(result, as_json, lambda: Text(line))
