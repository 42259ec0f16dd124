# SPDX-License-Identifier: MIT
"""Behind a max pool of any form OpenVINO multiplies bytes, and gives the same integers on every instruction set."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bitwright.export import to_openvino
from bitwright.integer import IntegerModel, lower
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from export.openvino_files import write_files
from export.openvino_run import BATCHES, THREADS, differing
from graph.networks import captured

openvino = pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")

POOLS: dict[str, nn.MaxPool2d] = {
    "plain": nn.MaxPool2d(3, 2, 1),
    "up": nn.MaxPool2d(2, 3, ceil_mode=True),  # the last window begins at the last pixel
    "up, nothing to round": nn.MaxPool2d(2, 1, ceil_mode=True),
    "up, padded": nn.MaxPool2d((3, 2), (3, 2), 1, ceil_mode=True),
    "up, one pixel, linear": nn.MaxPool2d(7, ceil_mode=True),
    "up, one pixel, convolution": nn.MaxPool2d(7, ceil_mode=True),
    "dilated": nn.MaxPool2d(2, 2, dilation=2),
    "dilated, up": nn.MaxPool2d((3, 2), 2, 1, (2, 3), ceil_mode=True),
    "dilated, one pixel, linear": nn.MaxPool2d(2, 2, dilation=6),
    "dilated, one pixel, convolution": nn.MaxPool2d(2, 2, dilation=6),
}
"""Of images of 7 x 7. Where one pixel is left, OpenVINO can take the next layer for a matrix product."""


@cache
def model_of(kind: str) -> tuple[IntegerModel, Tensor]:
    """A pool between layers with weights of 7 bits, so that all run on bytes; and images."""
    torch.manual_seed(0)
    behind: list[nn.Module] = [
        nn.Conv2d(40, 16, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    ]
    if kind.endswith("linear"):
        behind = [nn.Flatten(), nn.Linear(40, 10)]
    if kind.endswith("convolution"):
        behind = [nn.Conv2d(40, 10, 1), nn.Flatten()]
    network = nn.Sequential(nn.Conv2d(3, 40, 2), nn.ReLU(), copy.deepcopy(POOLS[kind]), *behind)
    images = torch.randn(max(BATCHES), 3, 8, 8)
    graph = captured(network)
    scheme = Scheme("7 bits", dict.fromkeys(graph.layers, Precision(7, 8)))
    return lower(calibrate(quantize(graph, scheme), [images], "minmax")), images


def kernels(made: Any) -> dict[str, str]:
    """What OpenVINO runs each convolution of a file on, by name; matrix products that it makes of them have others."""
    compiled = openvino.Core().compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return {
        name: info["primitiveType"].astype(str)
        for info in (node.get_rt_info() for node in compiled.get_runtime_model().get_ops())
        for name in info["originalLayersNames"].astype(str).split(",")
    }


@pytest.mark.parametrize("kind", POOLS)
def test_layers_behind_multiply_bytes(kind: str) -> None:
    """OpenVINO finds the bytes that a file marks: no layer is made a product of float32 numbers, or of what it quantizes anew.

    When it looks for bytes, it knows no pools whose sizes are rounded up, or that have gaps.
    """
    model, _ = model_of(kind)
    made = to_openvino(model)
    found = kernels(made)
    marked = [
        node.get_friendly_name()
        for node in made.get_ops()
        if node.get_type_name() == "Convolution" and node.input_value(1).get_node().get_type_name() == "Multiply"
    ]
    assert len(marked) == len(model.layers())
    assert {found.get(name, "none")[-2:].lower() for name in marked} == {"i8"}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the file of every network, its images and its integers."""
    return write_files(tmp_path_factory.mktemp("files"), POOLS, model_of)


@pytest.mark.parametrize("instructions", ["", "SSE41", "AVX", "AVX2"])
def test_every_instruction_set(instructions: str, files: Path) -> None:
    """Equal integers with all instructions of the CPU and with fewer.

    A last convolution of one pixel over 32 channels or more quantized its input anew, and had other sums; up to AVX it had no
    kernel, which one thread answered with no logits at all, two with an error.
    """
    assert differing(files, instructions, THREADS if not instructions else (1,)) == []
