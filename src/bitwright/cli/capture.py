# SPDX-License-Identifier: MIT
"""`bitwright capture`: a model by name becomes a graph in a file."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from bitwright.cli.app import app
from bitwright.cli.console import note, show
from bitwright.cli.ignored import refuse_ignored
from bitwright.cli.models import make_model, refuse_ignored_weights, refuse_two_heads
from bitwright.cli.options import (
    Channels,
    Classes,
    Ema,
    ImageSize,
    Json,
    ModelName,
    Output,
    Pretrained,
    ReplaceHead,
    Weights,
)
from bitwright.cli.outputs import reserve
from bitwright.cli.preprocessing import network_preprocessing, reads_images

if TYPE_CHECKING:
    from bitwright.data import Preprocessing


@app.command(epilog="Example: bitwright capture pytorchcv:resnet18 --pretrained -o resnet18.graph")
@reads_images
def capture(
    context: typer.Context,
    model: ModelName,
    output: Output,
    pretrained: Pretrained = False,
    weights: Weights = None,
    ema: Ema = False,
    data: Annotated[
        str | None, typer.Option("--data", "-d", metavar="NAME", help="Take channels and classes from it.")
    ] = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    classes: Classes = None,
    replace_head: ReplaceHead = False,
    as_json: Json = False,
    *,
    asked: Preprocessing,
) -> None:
    """Capture a model with torch.export, fold batch norm, count what it costs, write the graph."""
    refuse_ignored_weights(context)
    refuse_two_heads(context)
    if replace_head and data is None:
        refuse_ignored(
            context, "its classes are those of images. Name them with --data, or give --classes.", "replace_head"
        )
    if channels is not None and (classes is not None or ((pretrained or weights) and not replace_head)):
        reason = "the channels are given, and so are the classes, by --classes or by the weights. Leave it out."
        refuse_ignored(context, reason, "data")
    reserve(output, reads=[weights])
    from bitwright.graph import capture as capture_model
    from bitwright.report import graph_summary, summary_table

    made, shape = make_model(
        model,
        pretrained=pretrained,
        weights=weights,
        ema=ema,
        data=data,
        image_size=image_size or asked.crop,
        channels=channels,
        classes=classes,
        replace_head=replace_head,
    )
    graph = capture_model(made, shape, name=model)
    known = network_preprocessing(model, pretrained, shape[1], asked.of_channels(shape[0]))
    graph = replace(graph, preprocessing=known)
    graph.save(output)
    summary = graph_summary(graph)
    show({**summary, "file": str(output)}, as_json, lambda: summary_table(summary))
    note(f"wrote {output}")
