# SPDX-License-Identifier: MIT
"""`bitwright compare-layers`: where a network loses its signal on the way from float to integers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, note, show
from bitwright.cli.numbers import whole
from bitwright.cli.options import Data, GraphFile, Json, Seed
from bitwright.cli.preprocessing import reads_images

if TYPE_CHECKING:
    from bitwright.data import Preprocessing
    from bitwright.graph import Graph
    from bitwright.integer import IntegerModel
    from bitwright.report import LayerComparison

_BATCH = 16


@app.command(
    name="compare-layers",
    epilog="Example: bitwright compare-layers resnet18.graph resnet18.integer --data imagefolder:/data/imagenet",
)
@reads_images
def compare_layers(
    graph: GraphFile,
    model: Annotated[Path, typer.Argument(metavar="INTEGERS", help="A file that `bitwright lower` wrote.")],
    data: Data,
    images: Annotated[int, typer.Option("--images", "-n", parser=whole(1), help="Training images to run.")] = 64,
    seed: Seed = 0,
    as_json: Json = False,
    *,
    asked: Preprocessing,
) -> None:
    """Compare the float network with its integers, tensor by tensor: signal-to-noise ratio, and share of clamped values."""
    from bitwright.graph import Graph
    from bitwright.integer import load_integer
    from bitwright.report import layers_table, where_it_falls

    compared = compared_on(data, Graph.load(graph), load_integer(model), images, seed, asked)
    result = {
        "layers": [entry.to_dict() for entry in compared],
        "where": where_it_falls(compared),
    }
    show(result, as_json, lambda: layers_table(compared))
    if not as_json:
        note(where_it_falls(compared))


def compared_on(
    data: str, graph: Graph, model: IntegerModel, images: int, seed: int, asked: Preprocessing
) -> tuple[LayerComparison, ...]:
    """Every tensor of a float network and of its integers, on so many training images."""
    import torch

    from bitwright.cli.models import data_for_model
    from bitwright.report import compare_layers as compare

    found = data_for_model(data, model.input_shape, known=model.preprocessing, asked=asked)
    given, _ = found.calibration(min(images, len(found.train)), seed)
    with bar("comparing layers") as progress:
        return compare(graph, model, torch.split(given, _BATCH), progress=progress)
