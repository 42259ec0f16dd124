# SPDX-License-Identifier: MIT
"""Everything that needs no extra, then everything that needs one, in a process in which no optional library can be found.

`slim_core.py FOLDER` prints, as JSON, what each command that needs an extra said.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.metadata
import io
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from bitwright.extras import EXTRAS

STEPS = (
    "train reliability.networks:tiny -d slim_core:images -o net.graph --image-size 8 --epochs 1 --batch-size 20",
    "sensitivity net.graph -d slim_core:images -o net.sensitivities.json -n 20 --max-probes 10",
    "bench layers net.graph -o latency.json --rounds 1",
    "allocate net.graph net.sensitivities.json size0.5 --choices W4A4,W8A8 -o net.yaml",
    "train net.graph -d slim_core:images --scheme net.yaml --epochs 0 -o net.checkpoint",
    "train net.graph -d slim_core:images --scheme net.yaml --epochs 1 --batch-size 20 -o trained.checkpoint",
    "reconstruct net.graph -d slim_core:images --scheme net.yaml -n 20 --steps 2 -o reconstructed.checkpoint",
    "lower net.checkpoint -o net.integer",
    "export net.integer -o net.onnx",
    "export net.integer -o net.qonnx.onnx --engine qonnx",
    "export net.graph -o float.onnx",
    "evaluate net.onnx -d slim_core:images",
    "verify net.integer -d slim_core:images --images 4",
    "compare-layers net.graph net.integer -d slim_core:images -n 4",
    "explain net.integer --graph net.graph --sensitivities net.sensitivities.json -o net.html",
    "bench net.onnx --batch 1 --rounds 1",
    "auto net.graph -d slim_core:images --bops-g 1 --choices W4A4,W8A8 -o auto.onnx",
    "capture torchvision:squeezenet1_1 --image-size 64 -o torchvision.graph",
    "zoo list",
    "zoo show resnet18-bops0.5 -o zoo.yaml",
    "zoo table --model resnet18",
    "zoo check --model resnet18",
    "--version",
)
"""All commands, on a network and data of one's own."""

NEED = {
    "demo -o demo": "demo",
    "evaluate net.graph -d mnist-5k": "digits",
    "evaluate torchvision.graph -d hfds:beans": "huggingface",
    "allocate net.graph net.sensitivities.json size0.5 -o x --plot x.png": "plots",
    "allocate net.graph net.sensitivities.json size0.5 -o x --frontier x.json": "plots",
    "capture pytorchcv:resnet20_cifar10 -o x": "zoo",
    "capture pytorchcv:resnet20_cifar10 --pretrained -o x": "zoo",
    "zoo download resnet18-bops0.5": "zoo",
    "zoo check --model resnet18 --recompute": "zoo",
    "capture timm:resnet18 -o x": "timm",
    "capture timm:resnet18 --pretrained -o x": "timm",
    "evaluate net.graph -d slim_core:images --task detection": "detection",
    "export net.integer -o x.xml --engine openvino": "openvino",
    "verify net.integer -d slim_core:images --images 4 --engine openvino": "openvino",
    "auto net.graph -d slim_core:images --bops-g 1 -o x.xml": "openvino",
    "export net.integer -o x.tflite --engine litert": "litert",
    "auto net.graph -d slim_core:images --bops-g 1 -o x.tflite": "litert",
    "verify net.integer -d slim_core:images --images 4 --engine qonnx": "qonnx",
    "bench net.qonnx.onnx --batch 1 --rounds 1": "qonnx",
    "export net.integer -o x.so --engine tvm": "tvm",
    "auto net.graph -d slim_core:images --bops-g 1 -o x.so": "tvm",
    **{
        f"train net.graph -d slim_core:images --scheme net.yaml --epochs 1 -o x --track {tracker}": tracker
        for tracker in ("tensorboard", "wandb", "mlflow", "trackio")
    },
}
"""What needs an extra, and which."""


_ALL = importlib.metadata.DistributionFinder.Context()


def images() -> tuple[object, object]:
    """Squares, light or dark: 60 to train with, and 40 held out."""
    import torch
    from torch.utils.data import TensorDataset

    labels = torch.arange(100) % 10
    pixels = torch.randn(100, 1, 8, 8, generator=torch.Generator().manual_seed(0)) + labels[:, None, None, None] - 4.5
    return TensorDataset(pixels[:60], labels[:60]), TensorDataset(pixels[60:], labels[60:])


def hide() -> None:
    """Let no optional library be found, in the way of a library that is not installed."""
    find, list_all = importlib.machinery.PathFinder.find_spec, importlib.metadata.MetadataPathFinder.find_distributions
    packages = importlib.metadata.packages_distributions()
    hidden = {name.lower() for module in EXTRAS for name in packages.get(module, ())}

    def found(name: str, path: object = None, target: object = None) -> object:
        return None if name.partition(".")[0] in EXTRAS else find(name, path, target)  # type: ignore[arg-type]

    def listed(
        context: importlib.metadata.DistributionFinder.Context = _ALL,
    ) -> Iterator[importlib.metadata.Distribution]:
        return (each for each in list_all(context) if str(each.metadata["Name"]).lower() not in hidden)

    importlib.machinery.PathFinder.find_spec = staticmethod(found)  # type: ignore[assignment,method-assign]
    importlib.metadata.MetadataPathFinder.find_distributions = staticmethod(listed)  # type: ignore[assignment,method-assign]


def said(command: str) -> tuple[int, str]:
    """The exit status of a command, and what it printed on stderr."""
    from bitwright.cli import main

    printed = io.StringIO()
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
        try:
            main(command.split())
        except SystemExit as end:
            return int(end.code or 0), printed.getvalue()
    raise AssertionError


def go(folder: Path) -> None:
    """All commands, in a folder."""
    os.chdir(folder)
    for step in STEPS:
        status, error = said(step)
        assert status == 0, f"{step}: {error}"
    before = sorted(Path().iterdir())
    answers = {command: said(command) for command in NEED}
    assert sorted(Path().iterdir()) == before
    assert not EXTRAS.keys() & sys.modules.keys()
    print(json.dumps(answers))


if __name__ == "__main__":
    hide()
    go(Path(sys.argv[1]))
