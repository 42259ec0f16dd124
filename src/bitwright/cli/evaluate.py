# SPDX-License-Identifier: MIT
"""`bitwright evaluate`: the accuracy of anything that Bitwright writes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, show
from bitwright.cli.options import BatchSize, Data, Json, Seed, Workers


@app.command(epilog="Example: bitwright evaluate resnet18.w4a4.integer --data imagefolder:/data/imagenet")
def evaluate(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A graph, a checkpoint, an integer model or an exported file.")
    ],
    data: Data,
    split: Annotated[str, typer.Option("--split", help="train or test.")] = "test",
    batch_size: BatchSize = 100,
    workers: Workers = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Count right guesses on a data set: top-1 and top-5."""
    from rich.text import Text

    from bitwright.benchmark import predictor
    from bitwright.cli.models import load_data
    from bitwright.training import evaluate as count

    found = predictor(model)
    images = load_data(data, found.input_shape, seed, outputs=found.output_shape[0])
    with bar(f"evaluating {found.description}") as progress:
        accuracy = count(found.predict, images.batches(split, batch_size, workers=workers), progress=progress)
    result = {
        "file": str(model),
        "what": found.description,
        "data": images.name,
        "split": split,
        "images": accuracy.images,
        "top1_percent": accuracy.top1_percent,
        "top5_percent": accuracy.top5_percent,
    }
    line = (
        f"{found.description} on {accuracy.images:,} images of {images.name} ({split}): "
        f"top-1 {accuracy.top1_percent:.2f} %, top-5 {accuracy.top5_percent:.2f} %"
    )
    show(result, as_json, lambda: Text(line))
