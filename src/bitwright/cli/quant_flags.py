# SPDX-License-Identifier: MIT
"""The flags of `quant_train.py`, and what is refused with what to use instead."""

from __future__ import annotations

import copy
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar, get_args

import typer

from bitwright.cli.app import fail
from bitwright.cli.numbers import MAX_CLASSES, MAX_SEED, one_of, real, whole
from bitwright.cli.preprocessing import OPTIONS

T = TypeVar("T")

STATE = "training.state"
EXAMPLE = """example:
  python quant_train.py -a resnet50 --epochs 1 --lr 0.0001 --batch-size 128 --data /path/to/imagenet/ --pretrained
      --save-path /path/to/checkpoints/ --act-range-momentum=0.99 --wd 1e-4 --data-percentage 0.0001 --fix-BN
      --checkpoint-iter -1 --quant-scheme uniform8
"""


class _Parser(ArgumentParser):
    """What is wrong costs one line."""

    def error(self, message: str) -> NoReturn:
        fail(f"UsageError: {message.rstrip('.')}. See: {self.prog} --help", 2)


def _read(number: Callable[[str], T]) -> Callable[[str], T]:
    """A number's reader, with its error in argparse's form."""

    def read(text: str) -> T:
        try:
            return number(text)
        except typer.BadParameter as error:
            raise ArgumentTypeError(error.message) from error

    return read


def parser() -> ArgumentParser:
    """All flags of the published command, and some of our own."""
    made = _Parser(
        "quant_train.py",
        description="Quantization-aware training and evaluation in integers, as the model zoo documents it.",
        epilog=EXAMPLE,
        formatter_class=RawDescriptionHelpFormatter,
    )
    _add_model(made.add_argument_group("data, model, output").add_argument)
    _add_preprocessing(made.add_argument_group("how images are made (by default, as the network knows)").add_argument)
    _add_descent(made.add_argument_group("optimisation").add_argument)
    _add_quantizers(made.add_argument_group("quantizers").add_argument)
    _add_distillation(made.add_argument_group("distillation").add_argument)
    _add_resuming(made.add_argument_group("resuming, evaluating, devices").add_argument)
    return made


def _add_model(add: Callable[..., Any]) -> None:
    add("--data", required=True, help="folder with train/ and val/, as ImageNet's; or the name of a data set")
    add("-a", "--arch", default="resnet18", help="network of pytorchcv, or SOURCE:MODEL (default: resnet18)")
    add("--pretrained", action="store_true", help="download pytorchcv's weights; with --resume, of the teacher only")
    add("--classes", type=_read(whole(1, MAX_CLASSES)), help="outputs of a new head (default: those of the weights)")
    add("--replace-head", action="store_true", help="a new head, for the classes of the images")
    default = Path("checkpoints/imagenet/test")
    add("--save-path", type=Path, default=default, help=f"folder to write (default: {default}/)")
    add("-j", "--workers", type=_read(whole(0)), default=4, help="processes that read images (default: 4)")
    add("-b", "--batch-size", type=_read(whole(1)), default=1, help="images in a step (default: 1; 128 is published)")
    add(
        "--data-percentage",
        type=_read(real(0.0, 1.0)),
        default=1.0,
        help="part of the training images, from 0 to 1, the same of every class (default: 1)",
    )
    add("-p", "--print-freq", type=_read(whole(1)), default=10, help="steps between two lines (default: 10)")
    add("--seed", type=_read(whole(0, MAX_SEED)), default=0, help="of everything random (default: 0)")


def _add_preprocessing(add: Callable[..., Any]) -> None:
    """The options of every command that reads images."""
    for name, hint in OPTIONS.items():
        _, option = get_args(hint)
        read = str if option.parser is None else _read(option.parser)
        add(f"--{name}", type=read, metavar=option.metavar, help=option.help)


def _add_descent(add: Callable[..., Any]) -> None:
    add("--epochs", type=_read(whole(0)), default=90, help="the last epoch, those done already included (default: 90)")
    add("--start-epoch", type=_read(whole(0)), default=0, help="how many are done already (default: 0)")
    add("--lr", "--learning-rate", type=_read(real(0.0)), default=0.1, help="in the first 30 epochs (default: 0.1)")
    add("--momentum", type=_read(real(0.0, 1.0)), default=0.9, help="of SGD (default: 0.9)")
    add(
        "--wd",
        "--weight-decay",
        dest="weight_decay",
        type=_read(real(0.0)),
        default=1e-4,
        help="of SGD, on all parameters (default: 1e-4)",
    )
    add(
        "--recipe",
        choices=["published", "modern"],
        default="published",
        help="published: a tenth of the rate each 30 epochs, no Nesterov, decay of all parameters, every image counts. "
        "modern: one cosine, Nesterov, decay of weights only, full batches only (default: published)",
    )


def _add_quantizers(add: Callable[..., Any]) -> None:
    add("--quant-scheme", default="uniform4", help="uniform4, size0.5, bops_0.5, w4a4, … or a scheme's file")
    add(
        "--residual-bits",
        type=_read(one_of(8, 16)),
        help="of the residual tensors (default: 16 under published schemes, else 8)",
    )
    add(
        "--quant-mode",
        choices=["symmetric", "asymmetric"],
        default="symmetric",
        help="of activations that can be negative (default: symmetric)",
    )
    add(
        "--act-range-momentum",
        type=_read(real(-1.0, 1.0)),
        default=-1.0,
        help="weight of the old range of activations; -1 keeps the widest (default: -1)",
    )
    percentile = _read(real(0.0, 100.0))
    add("--act-percentile", type=percentile, default=0.0, help="of each batch's activations; 0: their extremes")
    add("--weight-percentile", type=percentile, default=0.0, help="of each channel's weights; 0: their extremes")
    add(
        "--channel-wise",
        action="store_true",
        help="one scale of weights for a layer: as published, it turns channels off",
    )
    add("--bias-bit", type=_read(whole(2, 32)), default=32, help="width that biases are clamped to (default: 32)")
    add("--fix-BN", dest="fix_bn", action="store_true", help="batch norm stays folded with the given statistics")
    add(
        "--fix-BN-threshold",
        dest="fix_bn_threshold",
        type=_read(whole(0)),
        metavar="T",
        help="fold batch norm after T - 2 iterations, and keep its statistics then",
    )
    add(
        "--fixed-point-quantization",
        action="store_true",
        help="validate with the scales as they are instead of the multipliers of the integer model",
    )


def _add_distillation(add: Callable[..., Any]) -> None:
    add("--distill-method", default="None", choices=["None", "KD_naive"], help="knowledge distillation (default: None)")
    add("--teacher-arch", default="resnet101", help="network of pytorchcv, or SOURCE:MODEL (default: resnet101)")
    add("--teacher-weights", type=Path, help="file of its weights; without, --pretrained gives pytorchcv's")
    add(
        "--distill-alpha",
        type=_read(real(0.0, 1.0)),
        default=0.95,
        help="weight of the teacher's logits (default: 0.95)",
    )
    add("--temperature", type=_read(real(0.0)), default=6.0, help="of the distillation (default: 6)")
    add(
        "--distill-scale",
        choices=["image", "published"],
        default="image",
        help="average the teacher's part over images, or over images and classes as published (default: image)",
    )
    add(
        "--evaluate-times",
        type=_read(whole(-1)),
        default=-1,
        metavar="K",
        help="validate each N / (batch size x K) + 2 steps within an epoch of N images, too (default: not)",
    )


def _add_resuming(add: Callable[..., Any]) -> None:
    add(
        "--resume",
        type=Path,
        action="append",
        help="go on from our checkpoint or a published one, or SAVE_PATH/" + STATE,
    )
    add("--resume-quantize", action="store_true", help="the file of --resume is a quantized model")
    add("-e", "--evaluate", action="store_true", help="evaluate the integer model, train nothing")
    add(
        "--checkpoint-iter",
        type=_read(whole(-1)),
        default=-1,
        help=f"steps between writes of SAVE_PATH/{STATE}; -1: each minute and each epoch (default: -1)",
    )
    add("--gpu", type=_read(whole(0)), help="the GPU to compute on, of those that CUDA_VISIBLE_DEVICES shows")
    add("--world-size", type=int, default=-1, help="moved: torchrun")
    add("--rank", type=int, default=-1, help="moved: torchrun")
    add("--dist-url", help="moved: torchrun")
    add("--dist-backend", default="nccl", help="moved: torchrun")
    add("--multiprocessing-distributed", action="store_true", help="moved: torchrun")


def parse(arguments: Sequence[str] | None = None) -> Namespace:
    """Flags, checked; exits with status 2 on those that are malformed or have moved.

    Besides the flags, the result has `given`, the names of those on the command line; `going_on`, whether a `--resume` names the
    state of an interrupted training; and in `resume` the other file, from which that training had started.
    """
    made = parser()
    flags = made.parse_args(arguments)
    flags.given = _given(made, arguments)
    files = [path for path in flags.resume or () if path != flags.save_path / STATE]
    flags.going_on = len(files) < len(flags.resume or ())
    flags.resume = files[-1] if files else None
    for fault in _faults(flags):
        made.error(fault)
    return flags


def _given(made: ArgumentParser, arguments: Sequence[str] | None) -> frozenset[str]:
    """Names of the flags that were given, and not left to their defaults."""
    silent = copy.deepcopy(made)
    for action in silent._actions:
        action.default = SUPPRESS
    return frozenset(vars(silent.parse_args(arguments)))


def _faults(flags: Namespace) -> list[str]:
    """What is refused, and what to use."""
    faults = []
    launch = "launch several processes with: torchrun --nproc-per-node N quant_train.py …"
    for name, moved in {
        "--world-size": flags.world_size != -1,
        "--rank": flags.rank != -1,
        "--dist-url": flags.dist_url is not None,
        "--dist-backend": flags.dist_backend != "nccl",
        "--multiprocessing-distributed": flags.multiprocessing_distributed,
    }.items():
        if moved:
            faults.append(f"{name} has moved: {launch}")
    if -1 < flags.act_range_momentum < 0:
        faults.append(f"--act-range-momentum must lie in [0, 1], or be -1, got {flags.act_range_momentum}")
    if flags.resume_quantize and flags.resume is None and not flags.going_on:
        faults.append("--resume-quantize says what the file of --resume is: name one")
    if flags.evaluate and flags.going_on:
        faults.append("-e evaluates a model: resume a checkpoint, not the state of a training")
    if flags.resume is not None and flags.resume.name == STATE:
        faults.append(f"an interrupted training goes on in its own folder: --save-path {flags.resume.parent}")
    if flags.classes is not None and flags.replace_head:
        faults.append("--replace-head takes the number of the images' classes: leave out --classes")
    new_head = flags.classes is not None or flags.replace_head
    if new_head and (flags.evaluate or (flags.resume is not None and flags.resume.suffix == ".safetensors")):
        faults.append("a new head is for the start of a training from --pretrained or published float weights")
    if flags.temperature == 0:
        faults.append("--temperature must be above 0, got 0")
    if flags.distill_method == "None" and flags.teacher_weights is not None:
        faults.append("--teacher-weights would be ignored: there is no teacher without --distill-method KD_naive")
    if flags.distill_method != "None" and not flags.evaluate and not (flags.pretrained or flags.teacher_weights):
        faults.append(
            "a teacher without weights teaches noise: add --pretrained for pytorchcv's, or --teacher-weights FILE"
        )
    return faults
