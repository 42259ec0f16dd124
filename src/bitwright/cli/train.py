# SPDX-License-Identifier: MIT
"""`bitwright train`: a float baseline from a model's name, or quantization-aware training of a captured network."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitwright.cli.app import app
from bitwright.cli.console import bar, note, show
from bitwright.cli.epochs import Followed, best_of, lines_of, settling_images
from bitwright.cli.falling import Falling
from bitwright.cli.interruption import require_resumed, resumable
from bitwright.cli.numbers import real, whole
from bitwright.cli.options import (
    Activations,
    Channels,
    Classes,
    DataOrNone,
    Deploy,
    Ema,
    ImageSize,
    Json,
    Output,
    Pretrained,
    ReplaceHead,
    ResidualBits,
    Seed,
    TaskName,
    Weights,
    Workers,
)
from bitwright.cli.outputs import reserve
from bitwright.cli.preprocessing import network_preprocessing, reads_images
from bitwright.cli.processes import default_device, join_processes, leave_processes
from bitwright.cli.teacher import Alpha, Taught, Teacher, TeacherWeights, is_name
from bitwright.cli.train_ignored import refuse_ignored_in_training

if TYPE_CHECKING:
    from torch import nn

    from bitwright.data import ImageData, Preprocessing
    from bitwright.graph import Graph
    from bitwright.task import Task
    from bitwright.training import Checkpointing, TrainResult, TrainSettings

EXAMPLES = """
Examples: bitwright train pytorchcv:resnet20_cifar10 -d mnist-5k --epochs 8 --lr 0.1 -o digits.graph

bitwright train digits.graph -d mnist-5k --scheme W4A4 --epochs 2 -o digits.w4a4.checkpoint

bitwright train digits.graph -d mnist-5k --scheme W2A4 --epochs 2 --teacher large.graph -o digits.w2a4.checkpoint

bitwright train digits.graph -d mnist-5k --scheme W2A4 --layerwise digits.sensitivities.json -o digits.w2a4.checkpoint
"""


@app.command(epilog=EXAMPLES)
@reads_images
def train(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A graph or a checkpoint, which is quantized; or a model's name (SOURCE:MODEL), which is trained in float.",
        ),
    ],
    data: DataOrNone,
    output: Output,
    task: TaskName = "classification",
    scheme: Annotated[
        str | None, typer.Option("--scheme", "-s", help="A scheme's file, or W8A8, W4A4, … for all inner layers.")
    ] = None,
    epochs: Annotated[
        int, typer.Option("--epochs", parser=whole(0), help="Passes over the images; 0 only calibrates.")
    ] = 1,
    learning_rate: Annotated[
        float,
        typer.Option(
            "--lr", parser=real(0.0), help="At the start of the cosine; 0.02 may be better for weights of 2 or 3 bits."
        ),
    ] = 0.01,
    batch_size: Annotated[int, typer.Option("--batch-size", "-b", parser=whole(1), help="Images in a step.")] = 128,
    weight_decay: Annotated[float, typer.Option("--wd", parser=real(0.0), help="Weight decay.")] = 1e-4,
    label_smoothing: Annotated[float, typer.Option("--label-smoothing", parser=real(0.0, 1.0))] = 0.0,
    data_fraction: Annotated[
        float,
        typer.Option(
            "--data-fraction", parser=real(0.0, 1.0), help="Part of the training images, the same part of every class."
        ),
    ] = 1.0,
    ranges: Annotated[
        str, typer.Option("--ranges", help="How scales follow the data: learned, ema or fixed.")
    ] = "learned",
    free_norm: Annotated[
        bool,
        typer.Option("--free-norm/--fixed-norm", help="Normalise by batch statistics in training, or by fixed ones."),
    ] = True,
    settle_norm: Annotated[
        bool,
        typer.Option(
            "--settle-norm/--keep-norm",
            help="Give batch norm the statistics of the quantized network: corrected by calibration, settled after training.",
        ),
    ] = True,
    layerwise: Annotated[
        Path | None,
        typer.Option(
            "--layerwise",
            metavar="SENSITIVITIES",
            help="Lower the bits of one layer after another, the most sensitive first, and train after each.",
            dir_okay=False,
        ),
    ] = None,
    rungs: Annotated[
        list[str] | None,
        typer.Option(
            "--rung",
            metavar="PRECISION",
            help="Of --layerwise: where layers start, by default W8A8, and where they stop on the way; repeatable.",
        ),
    ] = None,
    layers_per_stage: Annotated[
        int,
        typer.Option(
            "--layers-per-stage", parser=whole(1), help="Of --layerwise: layers lowered before each training."
        ),
    ] = 1,
    teacher_alpha: Alpha = None,
    teacher: Teacher = None,
    teacher_weights: TeacherWeights = None,
    residual_bits: ResidualBits = 8,
    activations: Activations = None,
    deploy: Deploy = None,
    pretrained: Pretrained = False,
    weights: Weights = None,
    ema: Ema = False,
    image_size: ImageSize = None,
    channels: Channels = None,
    classes: Classes = None,
    replace_head: ReplaceHead = False,
    workers: Workers = None,
    checkpoint_minutes: Annotated[
        float,
        typer.Option("--checkpoint-minutes", parser=real(0.0), help="From one write of OUTPUT.state to the next."),
    ] = 1.0,
    checkpoint_steps: Annotated[
        int | None, typer.Option("--checkpoint-steps", parser=whole(1), help="Steps after which it is written besides.")
    ] = None,
    validates: Annotated[
        bool,
        typer.Option(
            "--validate/--no-validate", help="Judge every epoch on held-out images, and keep the best as OUTPUT.best."
        ),
    ] = True,
    track: Annotated[
        str | None,
        typer.Option("--track", metavar="NAME", help="tensorboard, wandb, mlflow or trackio: show each epoch there."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on after an interruption, from OUTPUT.state.")] = False,
    seed: Seed = 0,
    as_json: Json = False,
    *,
    asked: Preprocessing,
) -> None:
    """Train in float (writes a graph), or with quantization under a scheme (writes a checkpoint to lower).

    Under torchrun all processes train one model, and the first one writes it; with --resume from the start, its
    --max-restarts goes on where a killed process stopped. Every epoch is a line of OUTPUT.metrics.jsonl.
    """
    from bitwright.cli.data_free import kept_in
    from bitwright.errors import unknown_name
    from bitwright.training import Checkpointing, Ranges, TrainSettings, require_tracker

    settings = TrainSettings(
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        weight_decay=weight_decay,
        label_smoothing=label_smoothing,
        data_fraction=data_fraction,
        seed=seed,
        workers=workers,
    )
    in_float = is_name(model)
    if in_float and scheme is not None:
        raise typer.BadParameter("a scheme needs a captured network: run `bitwright capture` first.")
    if not in_float and scheme is None:
        raise typer.BadParameter("name the scheme of a captured network, for instance --scheme W4A4.")
    refuse_ignored_in_training(context, in_float)
    if ranges not in list(Ranges):
        raise unknown_name("ranges", ranges, list(Ranges))
    state = output.with_name(f"{output.name}.state")
    if track is not None:
        require_tracker(track)
    followed = Followed(output, validates, track)
    reserve(
        output,
        state,
        lines_of(output),
        best_of(output),
        kept_in(output),
        reads=[model, scheme, weights, layerwise, teacher, teacher_weights],
    )
    require_resumed(state, resume)
    checkpoint = Checkpointing(state, checkpoint_minutes, checkpoint_steps, resume)
    run = _Run(data, task, settings, followed, checkpoint, join_processes(default_device())[0], as_json, asked)
    with resumable(state, kept_in(output)):
        if scheme is None:
            model_options = {
                "pretrained": pretrained,
                "weights": weights,
                "ema": ema,
                "image_size": image_size or asked.crop,
            }
            model_options |= {"channels": channels, "classes": classes, "replace_head": replace_head}
            _train_float(run, model, model_options)
        else:
            options = {"ranges": ranges, "free_norm": free_norm, "settle_norm": settle_norm}
            falling = None if layerwise is None else Falling(layerwise, rungs or ["W8A8"], layers_per_stage)
            taught = Taught(teacher_alpha, teacher, teacher_weights)
            _train_quantized(
                run, Path(model), scheme, residual_bits, activations, deploy or [], taught, falling, options
            )
    leave_processes()


@dataclass(frozen=True)
class _Run:
    """What training in float and quantized training have in common.

    Attributes:
        data: Name of the images.
        task: Name of what the network is for.
        settings: The settings of the training.
        followed: How epochs are followed; its output is the file to write.
        checkpoint: Where the unfinished training is kept, and whether it goes on.
        main: Whether this process writes and prints, of several.
        as_json: Whether it prints JSON.
        asked: How images are to be made.
    """

    data: str
    task: str
    settings: TrainSettings
    followed: Followed
    checkpoint: Checkpointing
    main: bool
    as_json: bool
    asked: Preprocessing

    @property
    def output(self) -> Path:
        """File to write."""
        return self.followed.output

    def end(
        self,
        predict: Any,
        task: Task,
        images: ImageData,
        trained: TrainResult,
        beside: Iterable[Path] = (),
        **facts: str,
    ) -> None:
        """Evaluate what has been written, and forget the state and what lies beside it."""
        from rich.text import Text

        from bitwright.training import evaluate

        with bar("evaluating") as progress:
            batches = images.batches("test", 128, workers=self.settings.workers)
            scores = evaluate(predict, batches, task=task, progress=progress)
        # Before the state goes, so that a kill leaves none that is not wanted.
        best = self.followed.best(self.settings.epochs)
        for state in (*beside, Path(self.checkpoint.path)):
            state.unlink(missing_ok=True)
        losses = ", ".join(f"{loss:.4f}" for loss in trained.losses) or "none (calibrated only)"
        line = f"{', '.join(facts.values())}: {scores} as trained; losses by epoch: {losses}"
        result = {**facts, "losses": list(trained.losses), "norm_images": trained.norm_images}
        result |= {**scores.to_dict(), "file": str(self.output)}
        show(result | {"best": best}, self.as_json, lambda: Text(line))
        note(f"wrote {self.output}")
        if best is not None:
            note(f"wrote {best_of(self.output)}: better, after epoch {best['epoch']}")


def _train_float(run: _Run, name: str, options: dict[str, Any]) -> None:
    from bitwright.cli.models import class_outputs, data_for_model, make_model, outputs_of, task_for
    from bitwright.graph import FloatModel, capture
    from bitwright.training import fit

    made, shape = make_model(name, data=run.data, seed=run.settings.seed, **options)
    outputs = outputs_of(made, shape)
    task = task_for(run.task, outputs, name)
    if task.label_free:
        raise typer.BadParameter(
            f"{name} is trained in float, and --task {run.task} imitates a float network: name another task."
        )
    known = network_preprocessing(name, options["pretrained"], shape[1], run.asked.of_channels(shape[0]))
    images = data_for_model(run.data, shape, known=known, asked=run.asked, outputs=class_outputs(task, outputs))
    weights = options["weights"]
    origin = {
        "model": name,
        "pretrained": options["pretrained"],
        "ema": options["ema"],
        "weights": None if weights is None else hashlib.sha256(weights.read_bytes()).hexdigest(),
    }
    checkpoint = replace(run.checkpoint, origin=origin)

    def captured(module: nn.Module) -> Graph:
        return replace(capture(module, shape, name=name), preprocessing=known).reading(images.preprocessing, run.data)

    with (
        run.followed.hooks(run.settings, task, images, lambda module, path: captured(module.cpu()).save(path)) as hooks,
        bar(f"training {name} in float", shown=run.main) as progress,
    ):
        trained = fit(made, images, run.settings, task=task, checkpoint=checkpoint, hooks=hooks, progress=progress)
    if run.main:
        graph = captured(made)
        graph.save(run.output)
        run.end(FloatModel(graph).eval(), task, images, trained, model=name, scheme="float")


def _train_quantized(
    run: _Run,
    path: Path,
    scheme: str,
    residual_bits: int,
    activations: str | None,
    deploy: list[str],
    taught: Taught,
    falling: Falling | None,
    options: dict[str, Any],
) -> None:
    from bitwright.cli.data_free import data_for_graph, kept_in
    from bitwright.cli.models import class_outputs, integers_refused, task_for
    from bitwright.cli.schemes import scheme_for
    from bitwright.export import require_deployable
    from bitwright.graph import FloatModel, Graph
    from bitwright.integer import IntegerModel, load
    from bitwright.training import fine_tune, fine_tune_layerwise, save_quantized
    from bitwright.training.layerwise import stage_files

    start = load(path)
    if isinstance(start, IntegerModel):
        raise integers_refused(path, "cannot be trained")
    graph = start if isinstance(start, Graph) else start.float_graph()
    chosen = scheme_for(scheme, graph.layers, residual_bits, "tensorrt" if "tensorrt" in deploy else None, activations)
    require_deployable(graph, chosen, deploy)
    float_network = FloatModel(graph).eval().requires_grad_(False)
    task = task_for(run.task, graph.output_shape, graph.model).towards(float_network)
    options["task"] = task
    outputs = class_outputs(task, graph.output_shape)
    kept = kept_in(run.output)
    source = data_for_graph(
        run.data,
        graph,
        kept,
        label_free=task.label_free,
        asked=run.asked,
        outputs=outputs,
        seed=run.settings.seed,
    )
    options["distillation"] = taught.distillation(
        graph, source.preprocessing, run.data, task=task, trained=not isinstance(start, Graph)
    )
    options["checkpoint"] = run.checkpoint
    options["trained"] = not isinstance(start, Graph)
    schemes = () if falling is None else falling.schemes(graph, chosen)
    images = source.images()
    settles = options["settle_norm"] and options["free_norm"]
    with (
        run.followed.hooks(
            run.settings,
            task,
            images,
            lambda module, path: save_quantized(path, module),
            settling=settling_images(images, run.settings.seed) if settles else None,
            keeps_best=falling is None,  # that of fewer bits is what is wanted, not the best
        ) as options["hooks"],
        bar(f"training {graph.model}, {chosen.name}", shown=run.main) as progress,
    ):
        if falling is None:
            model, trained = fine_tune(graph, chosen, images, run.settings, progress=progress, **options)
        else:
            model, trained = fine_tune_layerwise(
                graph, schemes, images, run.settings, stage=progress.stage, progress=progress, **options
            )
    if run.main:
        save_quantized(run.output, model)
        beside = [*stage_files(run.checkpoint.path, len(schemes)), kept]
        run.end(model, task, images, trained, beside, model=graph.model, scheme=chosen.name)
