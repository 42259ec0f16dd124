# SPDX-License-Identifier: MIT
"""`bitwright auto`: from a trained model and images to a file of the accuracy that was asked for."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, note, say, show
from bitwright.cli.ignored import refuse_ignored
from bitwright.cli.interruption import require_resumed, resumable
from bitwright.cli.models import data_for_model, make_model, refuse_ignored_weights
from bitwright.cli.numbers import real, share, whole
from bitwright.cli.options import Data, Ema, ImageSize, Json, Output, Pretrained, Seed, Weights
from bitwright.cli.outputs import reserve
from bitwright.cli.preprocessing import network_preprocessing, reads_images
from bitwright.cli.teacher import is_name

if TYPE_CHECKING:
    from bitwright.auto import AutoResult, AutoSettings
    from bitwright.data import Preprocessing
    from bitwright.training import TrainSettings

EXAMPLES = """
Examples: bitwright auto pytorchcv:resnet18 --pretrained --data imagefolder:/data/imagenet --max-drop 1% -o resnet18.onnx

bitwright auto my.models:net --weights net.pth --data imagefolder:pictures --size-mb 3 --train -o net.onnx
"""


@app.command(epilog=EXAMPLES)
@reads_images
def auto(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="pytorchcv:NAME, torchvision:NAME, timm:NAME, package.module:factory, or a graph file.",
        ),
    ],
    data: Data,
    output: Output,
    max_drop: Annotated[
        float | None,
        typer.Option(
            "--max-drop",
            parser=share,
            metavar="1%",
            help="Points of top-1 that the integers may lose on the held-out images; by default 1%, none under a budget.",
        ),
    ] = None,
    size_mb: Annotated[float | None, typer.Option("--size-mb", metavar="MB", help="Budget of the weights.")] = None,
    bops_g: Annotated[float | None, typer.Option("--bops-g", metavar="G", help="Budget of bit operations.")] = None,
    latency_ms: Annotated[
        float | None,
        typer.Option(
            "--latency-ms", metavar="MS", help="Budget for one image, one thread, timed here in ONNX Runtime."
        ),
    ] = None,
    cost: Annotated[
        str, typer.Option("--least", help="What is to be least within the drop: size, bops or latency.")
    ] = "size",
    choices: Annotated[
        str | None,
        typer.Option(
            "--choices",
            help="What a layer may have: 2-8, or precisions such as W4A4,W8A8.",
            show_default="W2A4 to W8A8",
        ),
    ] = None,
    reconstruct: Annotated[
        bool, typer.Option("--reconstruct", help="Learn the rounding of each scheme: minutes each.")
    ] = False,
    train: Annotated[
        bool, typer.Option("--train/--no-training", help="Fine-tune where nothing else is accurate enough.")
    ] = False,
    epochs: Annotated[int, typer.Option("--epochs", parser=whole(1), help="Of --train, for each scheme.")] = 1,
    learning_rate: Annotated[float, typer.Option("--lr", parser=real(0.0), help="Of --train.")] = 0.01,
    engine: Annotated[
        str | None, typer.Option("--engine", "-e", help="To write for; by default, whose files end as OUTPUT does.")
    ] = None,
    pretrained: Pretrained = False,
    weights: Weights = None,
    ema: Ema = False,
    image_size: ImageSize = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after an interruption.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
    *,
    asked: Preprocessing,
) -> None:
    """Find the cheapest integers that are accurate enough, prove them, write them, run what was written.

    Schemes on the Pareto frontier are calibrated, lowered and evaluated until one is within --max-drop whose next cheaper one was
    measured and is not. With --size-mb, --bops-g or --latency-ms alone it is the most accurate scheme within them.
    """
    from bitwright.auto import AutoSettings, auto_quantize
    from bitwright.auto.latency import asks_for_latency
    from bitwright.auto.quantize import state_files
    from bitwright.auto.settings import EVERY_WIDTH, MAX_DROP
    from bitwright.cli.allocate import parse_choices
    from bitwright.graph import Graph
    from bitwright.graph import capture as capture_model
    from bitwright.scheme import Budget
    from bitwright.training import TrainSettings

    refuse_ignored_weights(context)
    if not train:
        refuse_ignored(context, "nothing is trained. Add --train.", "epochs", "learning_rate")
    asked_for = (("size", size_mb), ("bops", bops_g), ("latency", latency_ms))
    limits = tuple(Budget(kind, limit) for kind, limit in asked_for if limit is not None)
    drop = max_drop if max_drop is not None or limits else MAX_DROP
    if drop is None:
        reason = "within budgets alone, the most accurate scheme is looked for. Add --max-drop, or leave it out."
        refuse_ignored(context, reason, "cost")
    settings = AutoSettings(
        max_drop=drop,
        budgets=limits,
        cost=cost,
        choices=EVERY_WIDTH if choices is None else tuple(parse_choices(choices)),
        reconstruct=reconstruct,
        seed=seed,
    )
    states = state_files(output)
    for state in states:
        require_resumed(state, resume)
    made_graph = output.with_suffix(".graph") if is_name(model) else None
    reserve(
        output,
        made_graph,
        output.with_suffix(".latency.json") if asks_for_latency(settings) else None,
        reads=[weights, model],
    )
    options = ["--pretrained"] * pretrained + (["--weights", str(weights)] if weights else []) + ["--ema"] * ema
    options += ["--image-size", str(image_size)] if image_size else []
    how = [word for name, value in asked.to_dict().items() for word in (f"--{name}", _written(value))]
    if not is_name(model):
        refuse_ignored(context, "a graph has its weights.", "pretrained", "weights", "ema", "image_size")
        network = Graph.load(model)
    else:
        made, shape = make_model(
            model,
            pretrained=pretrained,
            weights=weights,
            ema=ema,
            data=data,
            image_size=image_size or asked.crop,
            seed=seed,
        )
        network = capture_model(made, shape, name=model)
        known = network_preprocessing(model, pretrained, shape[1], asked.of_channels(shape[0]))
        network = replace(network, preprocessing=known)
    found = data_for_model(
        data, network.input_shape, known=network.preprocessing, asked=asked, outputs=network.output_shape[0]
    )
    training = TrainSettings(epochs=epochs, learning_rate=learning_rate, seed=seed) if train else None
    with resumable(states[-1]):  # which is there until all is done
        result = auto_quantize(
            network, found, output, settings, training=training, engine=engine, name=model, resume=resume, stage=bar
        )
    steps = _commands(model, options, how, data, output, result, settings, training)
    show(result.to_dict() | {"commands": steps}, as_json, lambda: _table(result))
    if not as_json:
        say(f"{result.scheme.name}, {result.way}; the same, step by step:")
        for step in steps:
            say(f"  {step}")
    if made_graph is not None:
        network.save(made_graph)
    for path in filter(None, (*result.files.values(), made_graph)):
        note(f"wrote {path}")
    note(f"{output}: {result.checked}")
    beside = [] if made_graph is not None else ["--graph", model]
    page = ["explain", str(result.files["integers"]), *beside, "--data", data, "-o", str(output.with_suffix(".html"))]
    note(f"why each layer has its bits: {shlex.join(['bitwright', *page])}")


def _commands(
    model: str,
    options: list[str],
    images: list[str],
    data: str,
    output: Path,
    result: AutoResult,
    settings: AutoSettings,
    training: TrainSettings | None,
) -> list[str]:
    """What makes the same integers, step by step."""
    from bitwright.auto.result import BY_BLOCKS, RECONSTRUCTED, TRAINED

    stem, seeded = output.with_suffix(""), ["--seed", str(settings.seed)] if settings.seed else []
    graph = f"{stem}.graph" if is_name(model) else model
    made = [] if graph == model else [["capture", model, *options, *images, "--data", data, "-o", graph]]
    # A network that is captured knows its images from then on.
    given = ["--data", data, *(images if graph == model else [])]
    made.append(["sensitivity", graph, *given, *seeded, "-o", f"{stem}.sensitivities.json"])
    how = ["train", "--epochs", "0"]
    if result.way in (BY_BLOCKS, RECONSTRUCTED):
        how = ["reconstruct", "--images", str(settings.calibration_images)]
        how += ["--network-steps", "0"] if result.way == BY_BLOCKS else []
    elif result.way == TRAINED and training is not None:
        how = ["train", "--epochs", str(training.epochs), "--lr", f"{training.learning_rate:g}"]
    scheme, checkpoint = f"{stem}.yaml", f"{stem}.checkpoint"
    made.append([how[0], graph, *given, "--scheme", scheme, *how[1:], *seeded, "-o", checkpoint])
    made.append(["lower", f"{stem}.checkpoint", "-o", f"{stem}.integer"])
    made.append(["export", f"{stem}.integer", "--engine", result.engine, "-o", str(output)])
    made.append(["evaluate", str(output), "--data", data])
    return [shlex.join(["bitwright", *step]) for step in made]


def _written(value: object) -> str:
    """An option's value as it is typed."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _table(result: AutoResult) -> Any:
    """One table for people."""
    from rich.table import Table

    def percent(value: float, error: float) -> str:
        return f"{100 * value:.2f} ± {100 * error:.2f}"

    whole, integers, ms = result.float_measured, result.measured, result.milliseconds
    table = Table()
    table.add_column("", overflow="fold")
    for name in ("float", "integers"):
        table.add_column(name, no_wrap=True, justify="right")
    table.add_row("top-1 (%)", percent(whole.top1, whole.top1_error), percent(integers.top1, integers.top1_error))
    table.add_row("drop (points)", "", percent(integers.drop, integers.drop_error))
    if result.cheaper is not None:
        table.add_row("next cheaper (points)", "", percent(result.cheaper.drop, result.cheaper.drop_error))
    table.add_row("weights (MB)", f"{result.float_cost.size_mb:.3f}", f"{result.cost.size_mb:.3f}")
    table.add_row("bit operations (G)", f"{result.float_cost.bops_g:.3f}", f"{result.cost.bops_g:.3f}")
    table.add_row("one image (ms)", f"{ms['float']:.3f}", f"{ms['integers']:.3f}")
    table.add_row("all logits equal", "", f"{result.equal[0]:,} of {result.equal[1]:,}")
    return table
