# SPDX-License-Identifier: MIT
"""OpenVINO chooses kernels by batch size, threads and instruction set: all of them give the same integers."""

from __future__ import annotations

import copy
from collections.abc import Iterator
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
    f"{inputs} to {outputs} in {groups}": nn.Conv2d(inputs, outputs, kernel, groups=groups, padding=1)
    for inputs, outputs, groups, kernel in (
        (8, 8, 2, 3),
        (32, 10, 2, 5),
        (32, 20, 4, (5, 1)),
        (4, 4, 2, 1),
        (6, 12, 3, 3),
        (32, 32, 4, 3),
        (33, 33, 3, 3),
        (6, 60, 3, 3),
        (22, 44, 2, 1),  # more channels in a group than fit into a vector
    )
}
DEPTHWISE: dict[str, Layer] = {
    f"{inputs} to {outputs}": nn.Conv2d(inputs, outputs, 3, groups=inputs)
    for inputs, outputs in ((8, 16), (24, 96), (9, 9))
}  # fmt: skip
"""Convolutions to more than one pixel."""
ALL = ONE_PIXEL | GROUPED | DEPTHWISE


@cache
def model_of(kind: str) -> tuple[IntegerModel, Tensor]:
    """A network around one layer, with weights of 7 bits, so that all layers run on bytes; and images."""
    torch.manual_seed(0)
    layer = copy.deepcopy(ALL[kind])
    inputs = layer.in_channels if isinstance(layer, nn.Conv2d) else layer.in_features
    outputs = len(layer.weight)
    steps: list[nn.Module] = [nn.Conv2d(3, inputs, 3), nn.ReLU()]
    if kind in ("linear", "1x1", "padded"):
        steps.append(nn.AdaptiveAvgPool2d(1))
    if kind == "linear":
        steps.append(nn.Flatten())
    steps += [layer, nn.ReLU()]
    if kind in GROUPED | DEPTHWISE:
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
    return write_files(tmp_path_factory.mktemp("files"), ALL, model_of)


@pytest.mark.parametrize(
    ("instructions", "threads"),
    [
        ("", THREADS),
        ("AVX2", (1,)),
        *(
            pytest.param(name, THREADS, marks=pytest.mark.slow)
            for name in ("SSE41", "AVX2", "AVX512_CORE", "AVX512_CORE_VNNI")
        ),
    ],
)
def test_every_batch_and_thread(instructions: str, threads: tuple[int, ...], files: Path) -> None:
    """Equal integers at batch 1, 2, 3 and 17, on one thread and two, with all instructions of the CPU and with fewer."""
    assert differing(files, instructions, threads) == []


def readers(node: Any) -> Iterator[Any]:
    """The operations that read a node's result."""
    for port in node.output(0).get_target_inputs():
        yield port.get_node()


def by_channel(node: Any) -> bool:
    """Whether this multiplies by one number for each channel."""
    factors = [port.get_source_output().get_node() for port in node.inputs()]
    constants = [factor for factor in factors if factor.get_type_name() == "Constant"]
    return node.get_type_name() == "Multiply" and any(factor.get_data().size > 1 for factor in constants)


def multiplications(node: Any) -> Iterator[Any]:
    """Those by one number for each channel, reached through nothing but clamps and additions."""
    for reader in readers(node):
        if by_channel(reader):
            yield reader
        elif reader.get_type_name() in ("Clamp", "Add"):
            yield from multiplications(reader)


def of_bytes(made: Any) -> list[Any]:
    """The convolutions with weights of bytes."""
    convolutions = [node for node in made.get_ops() if node.get_type_name() in ("Convolution", "GroupConvolution")]
    return [node for node in convolutions if node.input_value(1).get_node().get_type_name() == "Multiply"]


def may_be_matrix_products(kernel: Any) -> bool:
    """Of one pixel, or in groups of several channels."""
    one_pixel = [side.get_length() for side in list(kernel.get_output_partial_shape(0))[2:]] == [1, 1]
    return one_pixel or (kernel.get_type_name() == "GroupConvolution" and kernel.get_input_shape(1)[2] > 1)


@pytest.mark.parametrize("kind", ALL)
def test_matrix_products_are_multiplied_outside(kind: str) -> None:
    """Kernels that are matrix products multiply most channels by another channel's number: they are given none.

    Which kernel runs depends on the CPU and the batch. So the file has no multiplication by channels that OpenVINO could make
    part of one, and OpenVINO makes none: this shows on every CPU. In other kernels it is a part.
    """
    model, _ = model_of(kind)
    made = to_openvino(model)
    kernels = of_bytes(made)
    alone = [kernel for kernel in kernels if may_be_matrix_products(kernel)]
    assert len(kernels) == 4
    assert len(alone) == (2 if kind in DEPTHWISE else 3)
    for kernel in kernels:
        assert bool(list(multiplications(kernel))) == (kernel not in alone)
    compiled = openvino.Core().compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    info = [node.get_rt_info() for node in compiled.get_runtime_model().get_ops()]
    fused = [set(entry["originalLayersNames"].astype(str).split(",")) for entry in info]
    factors = {node.get_friendly_name() for node in made.get_ops() if by_channel(node)}
    for kernel in alone:
        (names,) = (names for names in fused if kernel.get_friendly_name() in names)
        assert not names & factors
