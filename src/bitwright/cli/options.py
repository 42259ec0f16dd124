# SPDX-License-Identifier: MIT
"""Options that several commands share, each with its one meaning."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bitwright.cli.numbers import MAX_CLASSES, MAX_SEED, MAX_SIDE, one_of, whole

Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON on stdout.")]
Output = Annotated[Path, typer.Option("--output", "-o", help="File to write, atomically.", dir_okay=False)]
Data = Annotated[
    str,
    typer.Option(
        "--data",
        "-d",
        help="mnist-5k, fashion-mnist[:DIR], digit-scenes[:boxes], imagefolder:DIR[:TRAIN,TEST], hfds:NAME, wds:DIR, or "
        "package.module:factory.",
        metavar="NAME",
    ),
]
DataOrNone = Annotated[
    str,
    typer.Option(
        "--data",
        "-d",
        help="mnist-5k, fashion-mnist[:DIR], imagefolder:DIR[:TRAIN,TEST], hfds:NAME, wds:DIR, package.module:factory; or none, "
        "where no label is read: images are then made from what batch norm remembers.",
        metavar="NAME",
    ),
]
TaskName = Annotated[
    str,
    typer.Option(
        "--task",
        help="What the network is for: classification, dense-classification (segmentation), detection, agreement (with the float "
        "network, without labels) or package.module:factory.",
        metavar="NAME",
    ),
]
OfOutput = Annotated[
    str | None,
    typer.Option(
        "--of-output",
        help="Of several outputs, the only one that counts; by default all, or the first where the task is of one.",
        metavar="NAME",
    ),
]
BatchSize = Annotated[int, typer.Option("--batch-size", "-b", parser=whole(1), help="Images in a batch.")]
Seed = Annotated[int, typer.Option("--seed", parser=whole(0, MAX_SEED), help="Of everything random in this command.")]
GraphFile = Annotated[Path, typer.Argument(metavar="GRAPH", help="A file that `bitwright capture` or `train` wrote.")]

ModelName = Annotated[
    str, typer.Argument(metavar="MODEL", help="pytorchcv:NAME, torchvision:NAME, timm:NAME or package.module:factory.")
]
Pretrained = Annotated[bool, typer.Option("--pretrained", help="Download the source's own weights.")]
Weights = Annotated[
    Path | None, typer.Option("--weights", help="Weights to load: .safetensors, .pth or .pt.", dir_okay=False)
]
Ema = Annotated[bool, typer.Option("--ema", help="Of the weights in that file, take their moving average.")]
ImageSize = Annotated[
    int | None,
    typer.Option(
        "--image-size", parser=whole(1, MAX_SIDE), help="Height and width in pixels; by default the model's own."
    ),
]
Channels = Annotated[int | None, typer.Option("--channels", parser=one_of(1, 3), help="Of the images: 1 or 3.")]
Classes = Annotated[
    int | None,
    typer.Option(
        "--classes",
        parser=whole(1, MAX_CLASSES),
        help="Outputs of the classifier: a new head where the weights have others. By default, those of the weights.",
    ),
]
ReplaceHead = Annotated[
    bool,
    typer.Option(
        "--replace-head", help="A new head, for the classes of the images: the same as their number as --classes."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        "--workers", "-j", parser=whole(0), help="Processes that read images; by default, as the images need."
    ),
]
ResidualBits = Annotated[
    int,
    typer.Option(
        "--residual-bits", parser=one_of(8, 16), help="Of the tensors that additions read and write: 8 or 16."
    ),
]
Activations = Annotated[
    str | None,
    typer.Option(
        "--activations",
        help="Integers of what can be negative: asymmetric, as calibration finds them best, or symmetric.",
        show_default="asymmetric",
    ),
]
Deploy = Annotated[
    list[str] | None,
    typer.Option(
        "--deploy",
        help="Refuse at once what this engine (litert, onnx, openvino, qonnx, tensorrt, tvm) would refuse; repeatable. "
        "tensorrt also quantizes for its formats.",
    ),
]
