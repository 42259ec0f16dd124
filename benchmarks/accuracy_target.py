# SPDX-License-Identifier: MIT
"""What `bitwright auto` finds: `python benchmarks/accuracy_target.py --json FILE --docs docs/auto.md`.

At most one point lost, and nothing else asked for: ResNet20 and a small MobileNetV2 on Fashion-MNIST; and torchvision's ResNet18
as a user has it, a module and two loaders, whose 64 x 64 images are drawn patterns that any network tells apart: that row says
how long the search takes, and not how accurate such a network stays. Float weights are those in `weights/` here, or of
`--weights NETWORK=FILE`. All logits of the files that are written are compared. `--docs` puts the table between the two markers
there.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from fashion import WEIGHTS, fashion_mnist, with_weights
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.models import resnet18

from bitwright import AutoSettings, auto_quantize
from bitwright.benchmark import environment
from bitwright.cli.console import bar
from bitwright.data import ImageData, load_data
from bitwright.files import write_json, write_text

SETTINGS = AutoSettings(max_drop=0.01)
MARKERS = ("<!-- auto: begin -->", "<!-- auto: end -->")
CLASSES, SIDE, COARSE = 10, 64, 8
BYTES_PER_MB = 2**20

Given = tuple[Any, Any]
"""A network, and data."""


def fashion(name: str, arguments: argparse.Namespace) -> Given:
    """A network on Fashion-MNIST."""
    data: ImageData = (
        fashion_mnist() if arguments.data is None else load_data(f"fashion-mnist:{arguments.data}", image_size=32)
    )
    weights = dict(each.partition("=")[::2] for each in arguments.weights)
    return with_weights(name, data, Path(weights.get(name, WEIGHTS / f"{name}.safetensors"))), data


def patterns(count: int, seed: int) -> TensorDataset:
    """Images of ten coarse patterns under noise, and which pattern each is."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(CLASSES, 3, COARSE, COARSE, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, CLASSES, (count,), generator=draw)
    images = nn.functional.interpolate(coarse[labels], size=SIDE, mode="bilinear")
    return TensorDataset(images + 1.2 * torch.randn(images.shape, generator=draw), labels)


def module_and_loaders(name: str, arguments: argparse.Namespace) -> Given:
    """ResNet18, trained for two passes, and loaders."""
    torch.manual_seed(0)
    network, train, test = resnet18(num_classes=CLASSES), patterns(1024, 0), patterns(500, 1)
    loaders = DataLoader(train, batch_size=64, shuffle=True), DataLoader(test, batch_size=100)
    optimizer = torch.optim.SGD(network.parameters(), 0.02, momentum=0.9)
    for images, labels in (batch for _ in range(2) for batch in loaders[0]):
        optimizer.zero_grad()
        loss: Tensor = nn.functional.cross_entropy(network(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return network.eval(), loaders


STUDIES: dict[str, Callable[[str, argparse.Namespace], Given]] = {
    "resnet20": fashion,
    "mobilenetv2-small": fashion,
    "resnet18": module_and_loaders,
}
IMAGES = {
    "resnet20": "Fashion-MNIST, 32 x 32",
    "mobilenetv2-small": "Fashion-MNIST, 32 x 32",
    "resnet18": "patterns, 64 x 64",
}


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One search."""
    network, data = STUDIES[name](name, arguments)
    begin, cpu = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory(prefix="bitwright-auto-") as folder:
        found = auto_quantize(network, data, Path(folder) / "net.onnx", SETTINGS, name=name, stage=bar).to_dict()
    kept = (
        "float",
        "integers",
        "next_cheaper",
        "cost",
        "float_cost",
        "equal_images",
        "compared_images",
        "tried",
        "environment",
    )
    times = {"seconds": time.perf_counter() - begin, "cpu_seconds": time.process_time() - cpu}
    return {**{key: found[key] for key in kept}, **times, "threads": torch.get_num_threads()}


def table(rows: dict[str, dict[str, Any]]) -> str:
    """In Markdown."""
    places = {
        f"{row['environment']['processor']} ({', '.join(row['environment']['instructions'])}), {row['threads']} threads"
        for row in rows.values()
    }
    right = (
        "float (%)",
        "integers (%)",
        "drop (points)",
        "next cheaper scheme (points)",
        "weights (MB)",
        "equal logits",
        "seconds",
    )
    lines = [
        f"Measured on {' and '.join(sorted(places))}; calibrated on 512 images, nothing trained.",
        "",
        f"| network | held-out images | {' | '.join(right)} |",
        f"| --- | --- |{' ---: |' * len(right)}",
    ]
    for name in (each for each in STUDIES if each in rows):
        row = rows[name]
        size, before = (row[cost]["size_bytes"] / BYTES_PER_MB for cost in ("cost", "float_cost"))
        cheaper = "none" if row["next_cheaper"] is None else points(row["next_cheaper"])
        lines.append(
            f"| {name} | {row['float']['images']:,}, {IMAGES[name]} | {100 * row['float']['top1']:.2f} | "
            f"{100 * row['integers']['top1']:.2f} | {points(row['integers'])} | {cheaper} | {before:.3f} to {size:.3f} | "
            f"{row['equal_images']:,} of {row['compared_images']:,} | {row['seconds']:.0f} |"
        )
    return "\n".join(lines)


def points(measured: dict[str, Any]) -> str:
    """A drop with its standard error."""
    return f"{100 * measured['drop']:.2f} ± {100 * measured['drop_error']:.2f}"


def main() -> None:
    """Measure what is missing, and print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "networks", nargs="*", metavar="NETWORK", default=list(STUDIES), help=f"of {', '.join(STUDIES)}"
    )
    parser.add_argument("--json", type=Path, required=True, help="rows, those of former runs among them")
    parser.add_argument("--docs", type=Path, help="a file with the two markers between which the table belongs")
    parser.add_argument(
        "--weights", action="append", default=[], metavar="NETWORK=FILE", help="a state dict; repeatable"
    )
    parser.add_argument("--data", help="folder of Fashion-MNIST")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.networks if name not in STUDIES]:
        parser.error(f"unknown network '{unknown[0]}'. Known: {', '.join(STUDIES)}.")
    torch.set_num_threads(arguments.threads)
    print(environment())
    rows = json.loads(arguments.json.read_text()) if arguments.json.exists() else {}
    for name in arguments.networks:
        rows[name] = measure(name, arguments)
        write_json(arguments.json, rows)
    print(table(rows))
    if arguments.docs is not None:
        before, rest = arguments.docs.read_text(encoding="utf-8").split(MARKERS[0])
        write_text(arguments.docs, f"{before}{MARKERS[0]}\n{table(rows)}\n{MARKERS[1]}{rest.split(MARKERS[1])[1]}")


if __name__ == "__main__":
    main()
