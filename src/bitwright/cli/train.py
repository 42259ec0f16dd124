# SPDX-License-Identifier: MIT
"""`bitwright train`: a float baseline from a model's name, or quantization-aware training of a captured network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, note, show
from bitwright.cli.options import Channels, Classes, Data, Ema, ImageSize, Json, Output, Pretrained, Seed, Weights

if TYPE_CHECKING:
    from bitwright.data import ImageData
    from bitwright.training import TrainSettings

EXAMPLES = """
Examples: bitwright train pytorchcv:resnet20_cifar10 -d mnist-5k --epochs 8 --lr 0.1 -o digits.graph

bitwright train digits.graph -d mnist-5k --scheme W4A4 --epochs 2 -o digits.w4a4.checkpoint
"""


@app.command(epilog=EXAMPLES)
def train(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A graph or a checkpoint, which is quantized; or a model's name (SOURCE:MODEL), which is trained in float.",
        ),
    ],
    data: Data,
    output: Output,
    scheme: Annotated[
        str | None, typer.Option("--scheme", "-s", help="A scheme's file, or W8A8, W4A4, … for all inner layers.")
    ] = None,
    epochs: Annotated[int, typer.Option("--epochs", min=0, help="Passes over the images; 0 only calibrates.")] = 1,
    learning_rate: Annotated[float, typer.Option("--lr", min=0.0, help="At the start of the cosine.")] = 0.01,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", min=1, help="Images in a step.")] = 128,
    weight_decay: Annotated[float, typer.Option("--wd", min=0.0, help="Weight decay.")] = 1e-4,
    label_smoothing: Annotated[float, typer.Option("--label-smoothing", min=0.0, max=1.0)] = 0.0,
    data_fraction: Annotated[
        float, typer.Option("--data-fraction", help="Part of the training images, the same part of every class.")
    ] = 1.0,
    ranges: Annotated[
        str, typer.Option("--ranges", help="How scales follow the data: learned, ema or fixed.")
    ] = "learned",
    free_norm: Annotated[
        bool,
        typer.Option("--free-norm/--fixed-norm", help="Normalise by batch statistics in training, or by fixed ones."),
    ] = True,
    teacher_alpha: Annotated[
        float, typer.Option("--distill", min=0.0, max=1.0, help="Weight of the float network's logits in the loss.")
    ] = 0.0,
    residual_bits: Annotated[int, typer.Option("--residual-bits", help="Of residual streams: 8 or 16.")] = 8,
    pretrained: Pretrained = False,
    weights: Weights = None,
    ema: Ema = False,
    image_size: ImageSize = None,
    channels: Channels = None,
    classes: Classes = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after an interruption, from OUTPUT.state.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """Train in float (writes a graph), or with quantization under a scheme (writes a checkpoint to lower)."""
    from bitwright.training import TrainSettings

    settings = TrainSettings(
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        data_fraction=data_fraction,
        seed=seed,
    )
    state = output.with_name(f"{output.name}.state")
    if ":" in model and not Path(model).exists():
        if scheme is not None:
            raise typer.BadParameter("a scheme needs a captured network: run `bitwright capture` first.")
        model_options = {"pretrained": pretrained, "weights": weights, "ema": ema, "image_size": image_size}
        model_options |= {"channels": channels, "classes": classes}
        result = _train_float(model, data, settings, output, state, resume, model_options)
    else:
        if scheme is None:
            raise typer.BadParameter("name the scheme of a captured network, for instance --scheme W4A4.")
        options = {"ranges": ranges, "free_norm": free_norm}
        result = _train_quantized(
            Path(model), data, scheme, residual_bits, settings, output, state, resume, teacher_alpha, options
        )
    state.unlink(missing_ok=True)
    _print(result, as_json)
    note(f"wrote {output}")


def _train_float(
    name: str, data: str, settings: TrainSettings, output: Path, state: Path, resume: bool, options: dict[str, Any]
) -> dict[str, Any]:
    from bitwright.cli.models import load_data, make_model
    from bitwright.graph import FloatModel, capture
    from bitwright.training import fit

    made, shape = make_model(name, data=data, **options)
    images = load_data(data, shape)
    with bar(f"training {name} in float") as progress:
        trained = fit(made, images, settings, checkpoint=state, resume=resume, progress=progress)
    graph = capture(made, shape, name=name)
    graph.save(output)
    top1 = _top1(FloatModel(graph).eval(), images)
    return {"model": name, "scheme": "float", "losses": list(trained.losses), "top1_percent": top1, "file": str(output)}


def _train_quantized(
    path: Path,
    data: str,
    scheme: str,
    residual_bits: int,
    settings: TrainSettings,
    output: Path,
    state: Path,
    resume: bool,
    teacher_alpha: float,
    options: dict[str, Any],
) -> dict[str, Any]:
    from bitwright.cli.models import load_data
    from bitwright.cli.schemes import scheme_for
    from bitwright.errors import FileFormatError
    from bitwright.graph import FloatModel, Graph
    from bitwright.integer import IntegerModel, load
    from bitwright.training import Distillation, fine_tune, save_quantized

    start = load(path)
    if isinstance(start, IntegerModel):
        raise FileFormatError(
            f"'{path}' holds integers, which cannot be trained: give the checkpoint it was lowered from."
        )
    graph = start if isinstance(start, Graph) else start.float_graph()
    images = load_data(data, graph.input_shape)
    chosen = scheme_for(scheme, graph, residual_bits)
    if teacher_alpha > 0:
        options["distillation"] = Distillation(FloatModel(graph).eval().requires_grad_(False), teacher_alpha)
    with bar(f"training {graph.model}, {chosen.name}") as progress:
        model, trained = fine_tune(
            graph, chosen, images, settings, checkpoint=state, resume=resume, progress=progress, **options
        )
    save_quantized(output, model)
    top1 = _top1(model, images)
    losses = list(trained.losses)
    return {"model": graph.model, "scheme": chosen.name, "losses": losses, "top1_percent": top1, "file": str(output)}


def _top1(model: Any, images: ImageData) -> float:
    from bitwright.training import evaluate

    with bar("evaluating") as progress:
        return evaluate(model, images.batches("test", 128), progress=progress).top1_percent


def _print(result: dict[str, Any], as_json: bool) -> None:
    from rich.text import Text

    losses = ", ".join(f"{loss:.4f}" for loss in result["losses"]) or "none (calibrated only)"
    line = f"{result['model']}, {result['scheme']}: top-1 {result['top1_percent']:.2f} % as trained; losses by epoch: {losses}"
    show(result, as_json, lambda: Text(line))
