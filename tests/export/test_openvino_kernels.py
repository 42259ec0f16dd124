# SPDX-License-Identifier: MIT
"""OpenVINO chooses kernels by batch size, threads and instruction set: all of them give the same integers."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright.export import export_openvino
from bitwright.integer import IntegerModel, lower, run
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from export.openvino_run import BATCHES, differing
from graph.networks import captured

openvino = pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")

Layer = nn.Conv2d | nn.Linear
ONE_PIXEL: dict[str, Layer] = {
    "linear": nn.Linear(32, 48),
    "1x1": nn.Conv2d(32, 48, 1),
    "padded": nn.Conv2d(32, 48, 3, padding=1),
    "image": nn.Conv2d(32, 48, 6),
    "grouped": nn.Conv2d(32, 48, 6, groups=4),
    "depthwise": nn.Conv2d(32, 32, 6, groups=32),
    "multiplied": nn.Conv2d(32, 64, 6, groups=32),
}
"""Layers whose result is one pixel: of 6 x 6, or of their mean."""

GROUPED: dict[str, Layer] = {
    f"{inputs} to {outputs} in {groups}": nn.Conv2d(inputs, outputs, kernel, groups=groups)
    for inputs, outputs, groups, kernel in (
        (8, 8, 2, 3), (32, 10, 2, 5), (32, 20, 4, (5, 1)), (8, 16, 8, 3), (4, 4, 2, 1), (6, 12, 3, 3), (24, 96, 24, 3),
        (9, 9, 9, 3),
    )
}  # fmt: skip
"""Grouped and depthwise convolutions to more than one pixel."""


@cache
def model_of(kind: str) -> tuple[IntegerModel, Tensor]:
    """A network around one layer, with weights of 7 bits, so that all but the first layer run on bytes; and images."""
    torch.manual_seed(0)
    layer = copy.deepcopy((ONE_PIXEL | GROUPED)[kind])
    inputs = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features
    outputs = len(layer.weight)
    steps: list[nn.Module] = [nn.Conv2d(3, inputs, 3), nn.ReLU()]
    if kind in ("linear", "1x1", "padded"):
        steps.append(nn.AdaptiveAvgPool2d(1))
    if kind == "linear":
        steps.append(nn.Flatten())
    steps += [layer, nn.ReLU()]
    if kind in GROUPED:
        steps.append(nn.AdaptiveAvgPool2d(1))
    if kind != "linear":
        steps.append(nn.Flatten())
    network = nn.Sequential(*steps, nn.Linear(outputs, 24), nn.ReLU(), nn.Linear(24, 10))
    images = torch.randn(max(BATCHES), 3, 8, 8)
    graph = captured(network)
    scheme = Scheme("7 bits", dict.fromkeys(graph.layers, Precision(7, 8)))
    return lower(calibrate(quantize(graph, scheme), [images], "minmax")), images


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file of every network, its images and its integers."""
    folder = tmp_path_factory.mktemp("files")
    for kind in ONE_PIXEL | GROUPED:
        model, images = model_of(kind)
        path = folder / f"{kind}.xml"
        export_openvino(model, path)
        expected = run(model, images).numpy()
        assert len(np.unique(expected)) > 50
        np.savez(path.with_suffix(".npz"), images=images.numpy(), expected=expected)
    return folder


@pytest.mark.parametrize(
    "instructions",
    [
        "",
        "AVX2",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("SSE41", "AVX512_CORE", "AVX512_CORE_VNNI")),
    ],
)
def test_every_batch_and_thread(instructions: str, files: Path) -> None:
    """Equal integers at batch 1, 2, 3 and 17, on one thread and two, with all instructions of the CPU and with fewer."""
    assert differing(files, instructions) == []
