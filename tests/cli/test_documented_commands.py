# SPDX-License-Identifier: MIT
"""The commands that the documents show run, in the order of each document, in a folder that has only what the reader has."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bitwright.data import load_data, registry
from bitwright.graph import capture
from bitwright.integer import lower
from bitwright.scheme import Precision, Scheme
from bitwright.sensitivity import SensitivitySettings, measure_sensitivity
from bitwright.training import calibrate, quantize, save_quantized
from cli.conftest import Command
from cli.networks import small
from documents import DOCUMENTS, ROOT, blocks
from training.segmenter import shapes

BLOCKS = [
    block for document in DOCUMENTS for block in blocks(document) if block.document.startswith(("docs/", "README"))
]
SHOWN = list(dict.fromkeys(block.document for block in BLOCKS if block.commands and not block.reason))
SMALL = {
    "pytorchcv:resnet18": ["cli.networks:small", "--image-size", "28"],
    "my.models:net": ["cli.networks:small", "--image-size", "28"],
    "my.models:segmenter": ["training.segmenter:Segmenter", "--image-size", "16", "--epochs", "1"],
    "my.models:detector": [
        "scene_networks:Detector",
        "--image-size",
        "32",
        "--epochs",
        "1",
        "--data-fraction",
        "0.04",
        "--no-validate",
    ],
    "my-masks": ["shapes"],
    "--pretrained": [],
    "fashion-mnist": ["mnist-5k"],
    "imagefolder:/data/imagenet": ["mnist-5k"],
    "imagefolder:/data/imagenette": ["mnist-5k"],
    "imagefolder:pictures": ["mnist-5k"],
    "imagefolder:DIR": ["mnist-5k"],
    "imagefolder:photographs": ["mnist-5k"],
    "1%": ["99%"],  # a network that was not trained keeps no accuracy: any drop will do
}
"""What stands for networks and images that not everybody has."""

Given = Callable[[Path], None]


def a_network(*names: str) -> Given:
    """The small network by some names, with all that the commands before would have written."""

    def write(folder: Path) -> None:
        torch.manual_seed(0)
        network = small()
        torch.save(network.state_dict(), folder / "net.pth")
        data = load_data("mnist-5k")
        graph = capture(network.eval(), (1, 28, 28), name="small").reading(data.preprocessing, data.name)
        images, labels = data.calibration(64)
        model = calibrate(quantize(graph, Scheme.uniform(graph.layers, Precision(4, 4))), [images])
        for name in names:
            graph.save(folder / f"{name}.graph")
            lower(model).save(folder / f"{name}.integer")
            model.plan.scheme.save(folder / f"{name}.yaml")
            save_quantized(folder / f"{name}.checkpoint", model)
            found = measure_sensitivity(graph, images, labels, SensitivitySettings(max_probes=10), data="mnist-5k")
            found.save(folder / f"{name}.sensitivities.json")

    return write


GIVEN: dict[str, Given] = {
    "README.md": a_network(),
    "docs/allocation.md": a_network("resnet20"),
    "docs/auto.md": a_network("net"),
    "docs/commands.md": a_network(),
    "docs/first_steps.md": lambda folder: None,
    "docs/index.md": a_network(),
    "docs/inputs.md": a_network(),
    "docs/model_zoo.md": a_network("resnet18"),
    "docs/reliability.md": a_network("digits"),
    "docs/sensitivity.md": a_network("digits"),
    "docs/tasks.md": a_network("resnet18"),
    "docs/training.md": a_network("resnet18", "trained", "mixed"),
    "docs/training_guide.md": a_network("net"),
    "docs/tvm.md": a_network("resnet18"),
}
"""What each document takes as the reader's own."""

NOT_RUN = 25
"""Blocks of commands and of Python that say why no test runs them."""


def test_every_document_is_run_or_says_why_not() -> None:
    """The table has all documents that show commands, and their reasons are counted."""
    assert GIVEN.keys() == set(SHOWN)
    reasons = [block.reason for block in BLOCKS if block.reason]
    assert len(reasons) == NOT_RUN, reasons
    assert all(len(reason) > 10 for reason in reasons)


@pytest.mark.slow
@pytest.mark.parametrize("document", SHOWN)
def test_commands_run(document: str, bitwright: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reads what those before wrote."""
    monkeypatch.chdir(tmp_path)
    for folder in (tmp_path, ROOT / "benchmarks"):
        monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(registry, "_SOURCES", {**registry._SOURCES, "shapes": lambda request: shapes()})
    GIVEN[document](tmp_path)
    for block in BLOCKS:
        if block.document != document or block.reason:
            continue
        if block.file:
            (tmp_path / block.file).write_text(block.code, encoding="utf-8")
        for line in block.commands:
            words = [word for part in shlex.split(line) for word in SMALL.get(part, [part])]
            if words[:2] == ["bitwright", "capture"]:  # which sees no images
                words += ["--channels", "1"]
            if words[0] == "bitwright":
                done = bitwright(*words[1:])
                assert done.status == 0, (line, done.err)
            else:
                started(words, tmp_path)


def started(words: list[str], folder: Path) -> None:
    """Run another program, with our packages and scripts where it looks for them."""
    program = {"python": [sys.executable], "torchrun": [sys.executable, "-m", "torch.distributed.run"]}[words[0]]
    typed = [str(ROOT / word) if (ROOT / word).is_file() else word for word in words[1:]]
    paths = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests"), str(folder)))
    environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*program, *typed], cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (words, done.stderr[-2000:])
