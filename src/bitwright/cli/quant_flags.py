# SPDX-License-Identifier: MIT
"""The flags of `quant_train.py`, and what is refused with the command to use instead."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

import typer

from bitwright.cli.app import fail
from bitwright.cli.numbers import MAX_CLASSES, MAX_SEED, real, whole

T = TypeVar("T")

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
    """All flags of the published command."""
    made = _Parser(
        "quant_train.py",
        description="Quantization-aware training and evaluation in integers, as the model zoo documents it.",
        epilog=EXAMPLE,
        formatter_class=RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add("--data", required=True, help="folder with train/ and val/, as ImageNet's; or the name of a data set")
    add("-a", "--arch", default="resnet18", help="network of pytorchcv (default: resnet18)")
    add("--teacher-arch", default="resnet101", help="teacher of the distillation (default: resnet101)")
    add("-j", "--workers", type=_read(whole(0)), default=4, help="processes that read images (default: 4)")
    add(
        "--epochs",
        type=_read(whole(0)),
        default=90,
        help="passes over the images, those before --start-epoch included (default: 90)",
    )
    add("--start-epoch", type=_read(whole(0)), default=0, help="how many of them are done already (default: 0)")
    add("-b", "--batch-size", type=_read(whole(1)), default=256, help="images in a step (default: 256)")
    add("--lr", "--learning-rate", type=_read(real(0.0)), default=0.1, help="at the start of the cosine (default: 0.1)")
    add("--momentum", type=_read(real(0.0, 1.0)), default=0.9, help="of SGD (default: 0.9)")
    add(
        "--wd",
        "--weight-decay",
        dest="weight_decay",
        type=_read(real(0.0)),
        default=1e-4,
        help="of SGD (default: 1e-4)",
    )
    add("-p", "--print-freq", type=int, default=10, help="steps between two lines of progress (default: 10)")
    add("--resume", type=Path, help="go on from our checkpoint, a published one, or SAVE_PATH/training.state")
    add("-e", "--evaluate", action="store_true", help="evaluate the integer model, train nothing")
    add("--pretrained", action="store_true", help="download pytorchcv's weights")
    add("--classes", type=_read(whole(1, MAX_CLASSES)), help="outputs of a new head (default: those of the weights)")
    add("--replace-head", action="store_true", help="a new head, for the classes of the images")
    add("--world-size", type=int, default=-1, help="moved: accelerate launch")
    add("--rank", type=int, default=-1, help="moved: accelerate launch")
    add("--dist-url", help="moved: accelerate launch")
    add("--dist-backend", default="nccl", help="moved: accelerate launch")
    add("--seed", type=_read(whole(0, MAX_SEED)), default=0, help="of everything random (default: 0)")
    add("--gpu", type=int, help="moved: CUDA_VISIBLE_DEVICES")
    add("--multiprocessing-distributed", action="store_true", help="moved: accelerate launch")
    add(
        "--act-range-momentum",
        type=float,
        default=0.95,
        help="of activation ranges; -1 keeps the widest (default: 0.95)",
    )
    add("--quant-mode", default="symmetric", help="symmetric: there are no zero points")
    add("--save-path", type=Path, default=Path("checkpoints"), help="folder to write (default: checkpoints)")
    add(
        "--data-percentage",
        type=_read(real(0.0, 1.0)),
        default=1.0,
        help="part of the training images, of every class (default: 1)",
    )
    add("--fix-BN", dest="fix_bn", action="store_true", help="batch norm stays folded with its running statistics")
    add("--fix-BN-threshold", dest="fix_bn_threshold", type=_read(whole(0)), help="fix it after this many epochs")
    add(
        "--checkpoint-iter",
        type=_read(whole(-1)),
        default=-1,
        help="steps between checkpoints within an epoch; -1: epochs only",
    )
    add("--evaluate-times", type=_read(whole(-1)), default=-1, help="evaluations within an epoch (default: none)")
    add("--quant-scheme", default="uniform8", help="uniform8, size0.5, bops_0.5, w4a4, … or a scheme's file")
    add("--resume-quantize", action="store_true", help="the file of --resume is a quantized model")
    add(
        "--act-percentile",
        type=float,
        default=0.0,
        help="percentile of activation ranges, which then stay; 0: extremes",
    )
    add("--weight-percentile", type=float, default=0.0, help="moved: bitwright train --ranges learned")
    add("--channel-wise", action="store_true", help="one scale for each output channel: the only form here")
    add("--bias-bit", type=int, default=32, help="32: biases are int32")
    add("--distill-method", default="None", choices=["None", "KD_naive"], help="knowledge distillation (default: None)")
    add(
        "--distill-alpha",
        type=_read(real(0.0, 1.0)),
        default=0.95,
        help="weight of the teacher's logits (default: 0.95)",
    )
    add("--temperature", type=_read(real(0.0)), default=6.0, help="of the distillation (default: 6)")
    add(
        "--fixed-point-quantization",
        action="store_true",
        help="train without dyadic numbers: always so here, and what is lowered afterwards is exact all the same",
    )
    return made


def parse(arguments: Sequence[str] | None = None) -> Namespace:
    """Flags, checked; exits with status 2 on those that are malformed or have moved."""
    made = parser()
    flags = made.parse_args(arguments)
    launch = "launch several processes with: accelerate launch quant_train.py …"
    moved = {
        "--world-size": (flags.world_size != -1, launch),
        "--rank": (flags.rank != -1, launch),
        "--dist-url": (flags.dist_url is not None, launch),
        "--dist-backend": (flags.dist_backend != "nccl", launch),
        "--multiprocessing-distributed": (flags.multiprocessing_distributed, launch),
        "--gpu": (
            flags.gpu is not None,
            f"choose the device with: CUDA_VISIBLE_DEVICES={flags.gpu} python quant_train.py …",
        ),
        "--quant-mode": (
            flags.quant_mode != "symmetric",
            "there are no zero points: tensors that cannot be negative are unsigned by themselves",
        ),
        "--weight-percentile": (
            flags.weight_percentile != 0,
            "for weight ranges that clip outliers use: bitwright train --ranges learned",
        ),
        "--bias-bit": (flags.bias_bit != 32, "biases are int32 at the accumulator's scale; leave the flag out"),
    }
    for name, (given, instead) in moved.items():
        if given:
            made.error(f"{name} has moved: {instead}.")
    if flags.act_range_momentum != -1 and not 0 <= flags.act_range_momentum < 1:
        made.error(f"--act-range-momentum must lie in [0, 1), or be -1, got {flags.act_range_momentum}.")
    if not 0 <= flags.act_percentile <= 100:
        made.error(f"--act-percentile must lie in [0, 100], got {flags.act_percentile}.")
    if flags.resume_quantize and flags.resume is None:
        made.error("--resume-quantize says what the file of --resume is: name one.")
    if flags.evaluate and flags.resume is not None and flags.resume.suffix == ".state":
        made.error(
            "-e evaluates a model: resume checkpoint.safetensors or model.safetensors, not the state of a training."
        )
    if flags.resume is not None and flags.resume.suffix == ".state" and flags.resume.parent != flags.save_path:
        made.error(f"an interrupted training goes on in its own folder: --save-path {flags.resume.parent}.")
    if flags.classes is not None and flags.replace_head:
        made.error("--replace-head takes the number of the images' classes: leave out --classes.")
    new_head = flags.classes is not None or flags.replace_head
    if new_head and (flags.evaluate or (flags.resume is not None and flags.resume.suffix == ".safetensors")):
        made.error("a new head is for the start of a training from --pretrained or published float weights.")
    if flags.temperature == 0:
        made.error("--temperature must be above 0, got 0.")
    if flags.print_freq < 1:
        made.error(f"--print-freq must be at least 1, got {flags.print_freq}.")
    return flags
