# SPDX-License-Identifier: MIT
"""`quant_train.py`: the model zoo's documented command line, every flag with its meaning, on the library.

docs/quant_train.md compares each with the published command: the same, better and said when it is used, or refused.
"""

from __future__ import annotations

import os
import shlex
import sys
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bitwright.cli.app import reported
from bitwright.cli.console import bar
from bitwright.cli.interruption import require_resumed, resumable
from bitwright.cli.outputs import try_folder
from bitwright.cli.processes import default_device, join_processes, leave_processes
from bitwright.cli.quant_epochs import CHECKPOINT, QUANTIZED, Epochs, validate
from bitwright.cli.quant_flags import STATE, parse
from bitwright.cli.quant_log import Log
from bitwright.cli.quant_start import Begun, asked_of, begin, model_of, prepared, source_of

if TYPE_CHECKING:
    from bitwright.data import ImageData
    from bitwright.training import Distillation, TrainSettings

PUBLISHED_BATCH = 128


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error that the user can cause becomes one line on stderr and exit status 1."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    command = ["python", "quant_train.py", *given]
    with reported(command):
        run(parse(given), shlex.join(command))


def run(flags: Namespace, command: str = "python quant_train.py …") -> None:
    """Train, with a validation after each epoch; or only evaluate."""
    choose_gpu(flags.gpu)  # before anything looks for GPUs
    from bitwright.cli.models import data_for_model
    from bitwright.integer import IntegerModel

    state = flags.save_path / STATE
    if not flags.evaluate:
        require_resumed(state, flags.going_on, ["--resume", str(state)])
    try_folder(flags.save_path, flags.save_path)
    log = Log(flags.save_path / "log.log", shown=join_processes(default_device())[0])
    told: list[str] = []
    start = begin(flags, told.append)
    network = start if isinstance(start, IntegerModel) else start.graph
    source, known = source_of(flags), network.preprocessing
    data = data_for_model(
        source, network.input_shape, known=known, asked=asked_of(flags), outputs=network.output_shape[0]
    )
    if isinstance(start, Begun):
        start = replace(start, graph=start.graph.reading(data.preprocessing, source))
    log(command)
    for line in (*told, str(data), *notes(flags)):
        log(line)
    if isinstance(start, IntegerModel):
        validate(start, data, flags, log)
    elif flags.evaluate:
        evaluate(start, data, flags, log)
    else:
        with resumable(state, how=["--resume", str(state)]):
            train(start, data, flags, log)
        if log.shown:
            state.unlink(missing_ok=True)
    leave_processes()


def choose_gpu(number: int | None) -> None:
    """Show this process one GPU only, of those that it may see.

    Raises:
        UnknownNameError: If there is none of that number.
    """
    from bitwright.errors import UnknownNameError

    if number is None:
        return
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    shown = None if visible is None else [name for name in visible.split(",") if name]
    if shown is not None and number >= len(shown):
        raise UnknownNameError(
            f"no GPU {number} among CUDA_VISIBLE_DEVICES={visible}: leave --gpu out, or name another."
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = str(number) if shown is None else shown[number]
    import torch

    if not torch.cuda.is_available():
        raise UnknownNameError(f"no GPU {number} here: leave --gpu out to compute on the processor.")


def notes(flags: Namespace) -> Iterator[str]:
    """What is not as in the published command, or surprising there, said where it is used."""
    training = not flags.evaluate
    if training and flags.batch_size == 1:
        yield f"--batch-size 1 is the published default, slow and noisy: the model zoo was trained with {PUBLISHED_BATCH}"
    if training and flags.recipe == "modern":
        yield "--recipe modern: one cosine to zero, Nesterov, no decay of biases, batch norm and scales, full batches only"
    if training and flags.data_percentage < 1:
        yield f"--data-percentage {flags.data_percentage:g}: the same part of every class, drawn with --seed {flags.seed}"
    if flags.quant_mode == "asymmetric":
        yield (
            "--quant-mode asymmetric: tensors that can be negative get the integers around their range, at every width; the "
            "published command changes nothing"
        )
    if flags.channel_wise:
        yield "--channel-wise turns scales for each channel off, as in the published command: each layer has one"
    if flags.act_percentile:
        yield f"--act-percentile {flags.act_percentile:g}: ranges follow that of each batch, of up to 262,144 values of a tensor"
    if flags.weight_percentile:
        yield f"--weight-percentile {flags.weight_percentile:g}: of layers with batch norm, in training and validation"
    if flags.bias_bit < 32:
        yield f"--bias-bit {flags.bias_bit}: biases are clamped to {flags.bias_bit} bits, in steps of the accumulator"
    if flags.fixed_point_quantization:
        yield (
            "--fixed-point-quantization: validated with the scales as they are; the integer model that is written has proved "
            "multipliers all the same"
        )
    if training and flags.checkpoint_iter > 0:
        yield f"--checkpoint-iter {flags.checkpoint_iter}: {flags.save_path / STATE} is written after as many steps, too"
    if training and flags.distill_method != "None":
        over = "images" if flags.distill_scale == "image" else "images and classes, as published"
        yield f"--distill-scale {flags.distill_scale}: the teacher's part is averaged over {over}"


def evaluate(start: Begun, data: ImageData, flags: Namespace, log: Log) -> None:
    """Validate what a file holds, or a network calibrated anew, and write its integer model as the published command does."""
    from bitwright.integer import lower

    model = prepared(start, flags, data, log)
    integer = lower(model)
    if flags.fixed_point_quantization:
        validate(model, data, flags, log)
    else:
        validate(integer, data, flags, log)
    if log.shown:
        integer.save(flags.save_path / QUANTIZED)
        log(f"wrote {flags.save_path / QUANTIZED}")


def train(start: Begun, data: ImageData, flags: Namespace, log: Log) -> None:
    """Quantization-aware training, with a validation and all files after each epoch."""
    from bitwright.data import subset
    from bitwright.training import Checkpointing, Start, fit

    settings, begun = settings_of(start, flags, log)
    if begun >= settings.epochs:
        log(f"nothing to train: {begun} of {settings.epochs} epochs are done. Give more --epochs, or --start-epoch 0")
        return
    if flags.data_percentage < 1:
        log(f"training on {subset(data.train, flags.data_percentage, flags.seed)}")
    model = prepared(start, flags, data, log)
    epochs = Epochs(model, data, flags, settings, start.best_top1, log)
    checkpoint = Checkpointing(
        flags.save_path / STATE,
        steps=flags.checkpoint_iter if flags.checkpoint_iter > 0 else None,
        resume=flags.going_on,
        origin=origin_of(flags),
    )
    with bar(f"training {flags.arch}, {model.plan.scheme.name}", shown=log.shown) as progress:
        fit(
            model,
            data,
            settings,
            start=Start(begun, start.momenta),
            distillation=distillation(flags),
            checkpoint=checkpoint,
            hooks=epochs.hooks(begun),
            progress=progress,
        )
    log(f"wrote {flags.save_path / CHECKPOINT} and {flags.save_path / QUANTIZED}")


def settings_of(start: Begun, flags: Namespace, log: Log) -> tuple[TrainSettings, int]:
    """What the training loop reads, and the first epoch: the command line wins over the file, and a line says so."""
    from bitwright.training import Schedule, TrainSettings

    def chosen(flag: str, name: str, stored: Any) -> Any:
        given = getattr(flags, name)
        if stored is None or stored == given:
            return given
        if name in flags.given:
            log(f"{flag} {given:g} wins over the {stored:g} of '{flags.resume}'")
            return given
        log(f"{flag} {stored:g} is that of '{flags.resume}'")
        return stored

    modern = flags.recipe == "modern"
    settings = TrainSettings(
        epochs=flags.epochs,
        learning_rate=flags.lr,
        schedule=Schedule.COSINE if modern else Schedule.STEP,
        batch_size=flags.batch_size,
        momentum=chosen("--momentum", "momentum", start.momentum),
        nesterov=modern,
        weight_decay=chosen("--wd", "weight_decay", start.weight_decay),
        decay_all=not modern,
        data_fraction=flags.data_percentage,
        drop_last=modern,
        seed=flags.seed,
        workers=flags.workers,
    )
    return settings, chosen("--start-epoch", "start_epoch", start.epoch or None)


def origin_of(flags: Namespace) -> Mapping[str, Any]:
    """What the weights depend on besides what the loop knows."""
    names = ("arch", "fix_bn", "fix_bn_threshold", "evaluate_times", "fixed_point_quantization")
    return {name: getattr(flags, name) for name in names}


def distillation(flags: Namespace) -> Distillation | None:
    """The teacher that `--distill-method KD_naive` asks for."""
    if flags.distill_method == "None":
        return None
    from bitwright.graph import load_model
    from bitwright.training import Distillation, DivergenceScale

    pretrained = flags.teacher_weights is None
    teacher = load_model(model_of(flags.teacher_arch), pretrained=pretrained, weights=flags.teacher_weights)
    scale = DivergenceScale(flags.distill_scale)
    return Distillation(teacher.requires_grad_(False), flags.distill_alpha, flags.temperature, scale)
