# SPDX-License-Identifier: MIT
"""`quant_train.py`: the model zoo's documented command line, every flag with its meaning, on the library.

Flags whose meaning has moved are refused with what to do instead (`quant_flags`); none is ignored.
"""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.cli.app import reported
from bitwright.cli.console import bar
from bitwright.cli.interruption import resumable
from bitwright.cli.quant_flags import parse

if TYPE_CHECKING:
    from bitwright.data import ImageData
    from bitwright.graph import Graph
    from bitwright.integer import IntegerModel
    from bitwright.scheme import Scheme
    from bitwright.training import Distillation, QuantizedModel, Step, TrainSettings

CHECKPOINT, INTEGER, STATE = "checkpoint.safetensors", "model.safetensors", "training.state"
EVALUATION_BATCH = 50


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error that the user can cause becomes one line on stderr and exit status 1."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    with reported(["python", "quant_train.py", *given]):
        run(parse(given))


def run(flags: Namespace) -> None:
    """Train and evaluate, or only evaluate."""
    from bitwright.cli.models import load_data
    from bitwright.integer import IntegerModel, lower
    from bitwright.training import QuantizedModel

    start = load_start(flags)
    network = start.plan.source if isinstance(start, QuantizedModel) else start
    data = load_data(source_of(flags), network.input_shape, flags.seed, outputs=network.output_shape[0])
    print(data)
    if flags.evaluate:
        integer = start if isinstance(start, IntegerModel) else lower(prepared(start, flags, data))
        report(integer, data, flags)
        return
    if isinstance(start, IntegerModel):
        raise no_floats(flags)
    state = flags.save_path / STATE
    with resumable(state, ["--resume", str(state)]):  # of two --resume, the last one counts
        integer = lower(train(start, flags, data))
        integer.save(flags.save_path / INTEGER)
        report(integer, data, flags)
    print(f"wrote {flags.save_path / CHECKPOINT} and {flags.save_path / INTEGER}")


def load_start(flags: Namespace) -> Graph | QuantizedModel | IntegerModel:
    """What to train or evaluate: a network by name, or what `--resume` names."""
    from bitwright.cli.models import make_model
    from bitwright.graph import capture
    from bitwright.integer import load
    from bitwright.zoo import import_checkpoint, import_floats, import_notes

    if flags.resume is not None and flags.resume.suffix == ".safetensors":
        return load(flags.resume)
    published = flags.resume is not None and not interrupted(flags)
    if published and flags.resume_quantize and flags.evaluate:
        imported = import_checkpoint(flags.resume, flags.arch, flags.quant_scheme)
        for line in import_notes(imported):
            print(line)
        return imported
    if published:
        return import_floats(flags.resume, flags.arch, classes=head_classes(flags))
    name = f"pytorchcv:{flags.arch}"
    made, shape = make_model(
        name,
        pretrained=flags.pretrained,
        data=source_of(flags),
        channels=3,
        classes=flags.classes,
        replace_head=flags.replace_head,
        seed=flags.seed,
    )
    return capture(made, shape, name=name)


def source_of(flags: Namespace) -> str:
    """The images by name: a folder is one in ImageNet's layout."""
    return flags.data if ":" in flags.data or not Path(flags.data).is_dir() else f"imagefolder:{flags.data}"


def head_classes(flags: Namespace) -> int | None:
    """How many classes a new head is for, if one was asked for."""
    from bitwright.data import load

    return len(load(source_of(flags)).classes) if flags.replace_head else flags.classes


def interrupted(flags: Namespace) -> bool:
    """Whether `--resume` names the state of an interrupted training, which goes on in its own folder."""
    return flags.resume is not None and flags.resume == flags.save_path / STATE


def scheme_of(flags: Namespace, graph: Graph) -> Scheme:
    """A scheme's file, a published scheme of the architecture, or a precision for all inner layers."""
    from bitwright.cli.schemes import scheme_for
    from bitwright.errors import UnknownNameError
    from bitwright.zoo import published_scheme

    given = flags.quant_scheme
    if Path(given).exists():
        return scheme_for(given, graph)
    try:
        return published_scheme(flags.arch, given, layers=graph.layers)
    except UnknownNameError as error:
        if given.lower().startswith(("w", "uniform")):
            return scheme_for(given.lower().removeprefix("uniform"), graph)
        raise UnknownNameError(f"{error} {how_to_search(flags)}") from error


def how_to_search(flags: Namespace) -> str:
    """The commands that make a scheme where none was published."""
    from bitwright.errors import BudgetError, UnknownNameError
    from bitwright.scheme import Budget

    try:
        budget = str(Budget.parse(flags.quant_scheme))
    except (BudgetError, UnknownNameError):
        return "Or name a scheme's file."
    arch = flags.arch
    graph, sensitivities, scheme = f"{arch}.graph", f"{arch}.sensitivities.json", f"{arch}.{budget}.yaml"
    return (
        f"Search one with: bitwright capture pytorchcv:{arch} --pretrained -o {graph}; bitwright sensitivity {graph} --data "
        f"imagefolder:{flags.data} -o {sensitivities}; bitwright allocate {graph} {sensitivities} {budget} -o {scheme}; "
        f"then train with --quant-scheme {scheme}."
    )


def prepared(start: Graph | QuantizedModel, flags: Namespace, data: ImageData) -> QuantizedModel:
    """The quantized model before training: the resumed one under the same scheme, or the network calibrated anew."""
    from bitwright.training import Calibration, QuantizedModel, Ranges, fine_tune

    graph = start.float_graph() if isinstance(start, QuantizedModel) else start
    scheme = scheme_of(flags, graph)
    if isinstance(start, QuantizedModel) and start.plan.scheme.layers == scheme.layers:
        return start
    model, _ = fine_tune(
        graph,
        scheme,
        data,
        replace(settings_of(flags), epochs=0),
        ranges=Ranges.FIXED if flags.act_percentile else Ranges.EMA,
        act_range_momentum=flags.act_range_momentum,
        free_norm=not flags.fix_bn,
        calibration=Calibration.PERCENTILE if flags.act_percentile else Calibration.MINMAX,
        percentile=flags.act_percentile or 100.0,
    )
    return model


def settings_of(flags: Namespace) -> TrainSettings:
    """The part of the flags that the training loop reads."""
    from bitwright.training import TrainSettings

    return TrainSettings(
        epochs=max(flags.epochs - flags.start_epoch, 0),
        learning_rate=flags.lr,
        batch_size=flags.batch_size,
        momentum=flags.momentum,
        weight_decay=flags.weight_decay,
        data_fraction=flags.data_percentage,
        seed=flags.seed,
        workers=flags.workers,
    )


def train(start: Graph | QuantizedModel, flags: Namespace, data: ImageData) -> QuantizedModel:
    """Quantization-aware training, with the checkpoints and evaluations that the flags ask for."""
    from bitwright.data import subset
    from bitwright.training import Checkpointing, Hooks, fit, save_quantized

    if flags.data_percentage < 1:
        print(f"training on {subset(data.train, flags.data_percentage, flags.seed)}")
    model = prepared(start, flags, data)

    def before_epoch(epoch: int) -> None:
        threshold = flags.fix_bn_threshold
        model.free_norm = not flags.fix_bn and (threshold is None or epoch < threshold)

    with bar(f"training {flags.arch}, {model.plan.scheme.name}") as progress:
        result = fit(
            model,
            data,
            settings_of(flags),
            distillation=distillation(flags, data),
            checkpoint=Checkpointing(
                flags.save_path / STATE,
                steps=flags.checkpoint_iter if flags.checkpoint_iter > 0 else None,
                resume=interrupted(flags),
                origin={"arch": flags.arch, "fix_BN_threshold": flags.fix_bn_threshold},
            ),
            hooks=Hooks(before_epoch=before_epoch, after_step=between(model, data, flags)),
            progress=told(progress, flags.print_freq),
        )
    save_quantized(flags.save_path / CHECKPOINT, model.eval())
    print("losses by epoch: " + ", ".join(f"{loss:.4f}" for loss in result.losses))
    return model


def told(progress: Callable[..., object], every: int) -> Callable[..., None]:
    """The bar's progress, and a line each `every` steps where there is no terminal to draw a bar on."""

    def tell(done: int, total: int, /, **figures: float) -> None:
        progress(done, total, **figures)
        if done % every == 0:
            print(f"step {done} of {total}: " + ", ".join(f"{name} {value:.4g}" for name, value in figures.items()))

    return tell


def between(model: QuantizedModel, data: ImageData, flags: Namespace) -> Callable[[Step], None]:
    """Evaluations within an epoch, `--evaluate-times` of them."""
    if flags.evaluate_times < 1:
        return lambda step: None
    from bitwright.data import part_of
    from bitwright.training import evaluate

    images = part_of(len(data.train), flags.data_percentage)
    every = max(1, images // min(flags.batch_size, images) // flags.evaluate_times)

    def after_step(step: Step) -> None:
        if step.number % every == 0:
            accuracy = evaluate(model.eval(), data.batches("test", EVALUATION_BATCH))
            model.train()
            print(f"step {step.number}: Acc@1 {accuracy.top1_percent:.3f} Acc@5 {accuracy.top5_percent:.3f} as trained")

    return after_step


def distillation(flags: Namespace, data: ImageData) -> Distillation | None:
    """The teacher that `--distill-method KD_naive` asks for."""
    if flags.distill_method == "None":
        return None
    from bitwright.graph import load_model
    from bitwright.training import Distillation

    classes = None if flags.pretrained else len(data.classes)
    teacher = load_model(f"pytorchcv:{flags.teacher_arch}", pretrained=flags.pretrained, num_classes=classes)
    return Distillation(teacher.requires_grad_(False), flags.distill_alpha, flags.temperature)


def report(model: IntegerModel, data: ImageData, flags: Namespace) -> None:
    """Top-1 and top-5 of the integer model on the validation images."""
    from bitwright.integer import prepare
    from bitwright.training import evaluate

    begin = time.monotonic()
    predict = prepare(model).logits
    with bar(f"evaluating {model.scheme.name} in integers") as progress:
        accuracy = evaluate(predict, data.batches("test", EVALUATION_BATCH, workers=flags.workers), progress=progress)
    spent = time.monotonic() - begin
    print(
        f" * Acc@1 {accuracy.top1_percent:.3f} Acc@5 {accuracy.top5_percent:.3f} of the integer model "
        f"on {accuracy.images:,} images, in {spent:.1f} s"
    )


def no_floats(flags: Namespace) -> Exception:
    """The error for training from a file of integers."""
    from bitwright.errors import FileFormatError

    return FileFormatError(
        f"'{flags.resume}' holds integers, which cannot be trained: resume {CHECKPOINT} of the same training, or add -e."
    )
