# SPDX-License-Identifier: MIT
"""Convolutions to one column, of padding alone, or in groups: faults of OpenVINO's kernels on AVX-512, the last on AMX.

Which only such a CPU shows: so that others see what avoids them, the files are looked into as well.
"""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bitwright.benchmark import environment
from bitwright.export import Target, to_openvino
from bitwright.export.openvino.kernels import DOUBLED, FLOAT32, INT8, PARTS, kernel
from bitwright.graph import capture
from bitwright.integer import IntegerModel, lower, run
from bitwright.integer.ops import IntegerConv2d
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize

openvino = pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")

Geometry = dict[str, Any]
DOTS = environment().target is Target.VNNI and "VNNI" in os.environ.get("ONEDNN_MAX_CPU_ISA", "VNNI")
EXACT_HERE = [target for target in Target if target is not Target.VNNI or DOTS]
"""Files for CPUs with 8-bit dot products are exact on those alone, and where oneDNN may use them."""


def lowered(
    geometry: Geometry,
    shape: tuple[int, ...],
    outputs: int,
    precision: str,
    *,
    inputs: int = 8,
    activation: nn.Module | None = None,
) -> tuple[IntegerModel, Tensor]:
    """A convolution of that form between two others, behind SiLU, whose window has a zero point, or another activation."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(shape[0], inputs, 1),
        activation or nn.SiLU(),
        nn.Conv2d(inputs, outputs, **geometry),
        nn.ReLU(),
        nn.Conv2d(outputs, 4, 1),
    )
    graph = capture(network.eval(), shape)
    images = torch.randn(8, *shape)
    scheme = Scheme.uniform(graph.layers, Precision.parse(precision))
    return lower(calibrate(quantize(graph, scheme), [images])), images


def differing(model: IntegerModel, images: Tensor, target: Target) -> int:
    """How many integers OpenVINO computes otherwise, at batch 1 to 3."""
    made = to_openvino(model, target=target)
    compiled = openvino.Core().compile_model(made, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    wanted = run(model, images[:3]).numpy()
    return sum(
        int(np.count_nonzero(compiled({"images": images[:batch].numpy()})["logits_int32"] != wanted[:batch]))
        for batch in (1, 2, 3)
    )


def strides_of_columns(model: IntegerModel) -> list[int]:
    """Of the convolutions in the file whose results are one pixel wide, across."""
    return [
        node.get_attributes()["strides"][1]
        for node in to_openvino(model).get_ops()
        if node.get_type_name() in ("Convolution", "GroupConvolution")
        and node.get_output_partial_shape(0)[3].get_length() == 1
    ]


COLUMNS = {
    "the window ends with the image": ({"kernel_size": 3, "stride": 2, "padding": 1}, (3, 11, 2)),
    "behind it": ({"kernel_size": 3, "stride": (1, 2), "padding": 1}, (3, 11, 1)),
    "before it": ({"kernel_size": (3, 2), "stride": (2, 3)}, (3, 11, 4)),
    "before it, by less than its gap": ({"kernel_size": (3, 2), "stride": (1, 3), "dilation": 2}, (3, 11, 4)),
    "in groups": ({"kernel_size": 3, "stride": 2, "padding": 1, "groups": 2}, (3, 9, 2)),
    "each channel alone": ({"kernel_size": 3, "stride": 2, "padding": 1, "groups": 8}, (3, 9, 2)),
}


@pytest.mark.parametrize("case", COLUMNS)
@pytest.mark.parametrize("precision", ["W8A8", "W4A4"])
def test_columns_have_no_stride(case: str, precision: str) -> None:
    """A stride across is 1 in the file wherever the result has one column, and the integers stay what they are."""
    geometry, shape = COLUMNS[case]
    model, images = lowered(geometry, shape, 8, precision)
    layer = next(op for op in model if isinstance(op, IntegerConv2d) and op.stride[1] > 1)
    assert layer.shape[2] == 1
    assert set(strides_of_columns(model)) == {1}
    assert not any(differing(model, images, target) for target in EXACT_HERE)


ALONE = {
    "across": ({"kernel_size": (1, 2), "dilation": (1, 2), "padding": (0, 1)}, (3, 7, 1)),
    "down": ({"kernel_size": (2, 1), "dilation": (2, 1), "padding": (1, 0)}, (3, 1, 7)),
    "in both": ({"kernel_size": 2, "padding": 1, "stride": 2, "dilation": 2}, (3, 1, 1)),
}


@pytest.mark.parametrize("case", ALONE)
@pytest.mark.parametrize("precision", ["W8A8", "W4A4"])
def test_what_reads_padding_alone_runs_in_float32(case: str, precision: str) -> None:
    """Its sums are those of no products: the bias, which kernels for bytes do not find where there is a zero point."""
    geometry, shape = ALONE[case]
    model, images = lowered(geometry, shape, 8, precision)
    layers = {op.name: op for op in model if isinstance(op, IntegerConv2d)}
    for target in Target:
        kernels = [kernel(op, model, target) for op in layers.values()]
        assert [name in (FLOAT32, PARTS) for name in kernels] == [False, True, False]
        assert set(kernels) <= {INT8, DOUBLED, FLOAT32, PARTS}
    assert not any(differing(model, images, target) for target in EXACT_HERE)


def in_groups(channels: int, precision: str, activation: nn.Module) -> tuple[IntegerModel, Tensor]:
    """A convolution in two groups with 17 results each."""
    geometry = {"kernel_size": 3, "padding": 1, "groups": 2}
    return lowered(geometry, (3, 7, 5), 34, precision, inputs=2 * channels, activation=activation)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 6, 7, 8, 9])
@pytest.mark.parametrize("precision", ["W7A8", "W4A4", "W8A8"])
def test_groups_with_a_zero_point_run_in_float32(channels: int, precision: str) -> None:
    """Where the channels of a group are no multiple of 4: kernels for bytes take another sum off for the zero point."""
    model, images = in_groups(channels, precision, nn.SiLU())
    layer = next(op for op in model if isinstance(op, IntegerConv2d) and op.groups > 1)
    for target in Target:
        misread = channels not in (1, 4, 8) and model.formats[layer.inputs[0]].bit_width == 8
        assert (kernel(layer, model, target) is INT8) == (
            not misread and (precision != "W8A8" or target is Target.VNNI)
        )
    assert not any(differing(model, images, target) for target in EXACT_HERE)


@pytest.mark.parametrize("channels", [2, 3, 4, 9])
def test_groups_without_a_zero_point_run_on_bytes(channels: int) -> None:
    """As every other layer."""
    model, images = in_groups(channels, "W7A8", nn.ReLU())
    layer = next(op for op in model if isinstance(op, IntegerConv2d) and op.groups > 1)
    assert {kernel(layer, model, target) for target in Target} == {INT8}
    assert not any(differing(model, images, target) for target in EXACT_HERE)


def test_convolutions_of_any_form() -> None:
    """Forty of random kernels, strides, gaps and padding, on images of few pixels, for every target that this CPU has."""
    draw, wrong, made = random.Random(1), [], 0
    while made < 40:
        taps = draw.choice([1, 2, 3, 5]), draw.choice([1, 2, 3])
        geometry = {
            "kernel_size": taps,
            "stride": (draw.choice([1, 2, 3]), draw.choice([1, 2, 3])),
            "dilation": (draw.choice([1, 2]), draw.choice([1, 2])),
            "padding": tuple(draw.randint(0, 2 * (count - 1)) for count in taps),
            "groups": draw.choice([1, 2, 4, 8]),
        }
        shape = 3, draw.choice([1, 3, 5, 9]), draw.choice([1, 1, 2, 5])
        sizes = zip(shape[1:], geometry["padding"], geometry["dilation"], taps, strict=True)
        if any(size + 2 * padding <= gap * (count - 1) for size, padding, gap, count in sizes):
            continue
        made += 1
        model, images = lowered(geometry, shape, draw.choice([8, 16, 40]), draw.choice(["W8A8", "W4A4", "W7A8"]))
        wrong += [(geometry, shape) for target in EXACT_HERE if differing(model, images, target)]
    assert wrong == []
