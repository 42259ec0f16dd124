# SPDX-License-Identifier: MIT
"""OpenVINO on windows of eight bits that are neither those of uint8 nor of int8: its bytes then have a zero point."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bitwright.export.openvino.exporter import to_openvino
from bitwright.export.openvino.kernels import DOUBLED, FLOAT32, INT8
from bitwright.integer import IntegerModel, QuantParams
from bitwright.integer.proof.bounds import FLOAT32_EXACT, largest_sum
from bitwright.quantizer.formats import TensorFormat
from export.equality import assert_equal
from export.one_layer import convolution, linear

openvino = pytest.importorskip("openvino")
RESULT = QuantParams(TensorFormat.starting(8, -40), 1.0)
CASES: dict[str, tuple[int, int, int, int]] = {
    "padded": (60, 16, 1, 3),
    "halved weights": (127, 16, 1, 3),
    "depthwise": (60, 8, 8, 3),
    "grouped": (60, 16, 2, 3),
    "1x1": (60, 16, 1, 1),
}
"""The largest weight, the outputs, the groups and the side of the kernel, of 8 channels."""


def assert_equal_on(kernel: str, model: IntegerModel, source: QuantParams) -> None:
    """At every batch, on random images and at both ends of the window, and on this kernel."""
    assert f'"layer": "{kernel}"' in to_openvino(model).get_rt_info(["bitwright", "kernels"]).value
    generator = np.random.default_rng(1)
    images = generator.integers(source.quant_min, source.quant_max + 1, (3, *model.input_shape)).astype(np.float32)
    images[1], images[2] = source.quant_max, source.quant_min
    assert len(np.unique(assert_equal("openvino", model, images, batches=(1, 2, 3)))) > 3


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("least", [-1, -30, -129, -255])
def test_layers(least: int, name: str) -> None:
    """Sums as they are, and rescaled to another window; padding is the integer zero."""
    most, outputs, groups, side = CASES[name]
    source, generator = QuantParams(TensorFormat.starting(8, least), 1.0), np.random.default_rng(0)
    weight = generator.integers(-most, most + 1, (outputs, 8 // groups, side, side)).astype(np.int8)
    bias = generator.integers(-1000, 1000, outputs).astype(np.int32)
    window: dict[str, Any] = {"padding": (side // 2, side // 2), "groups": groups}
    for result in (None, RESULT):
        model = convolution(weight, bias, source, (7, 6), result=result, largest=20_000.0, **window)
        assert_equal_on(DOUBLED if most > 64 else INT8, model, source)


@pytest.mark.parametrize("inputs", [1000, 1100])
def test_sums_as_stored(inputs: int) -> None:
    """Sums within 2**24 whose bytes as stored exceed it would be rounded on the way: these run in float32."""
    source, generator = QuantParams(TensorFormat.starting(8, -129), 1.0), np.random.default_rng(0)
    weight = generator.integers(62, 65, (16, inputs, 1, 1)).astype(np.int8)
    bias = generator.integers(-1000, 1000, 16).astype(np.int32)
    assert largest_sum(weight, bias, source) <= FLOAT32_EXACT
    assert (weight.astype(int).sum((1, 2, 3)).max() * 255 > FLOAT32_EXACT) == (inputs == 1100)
    model = convolution(weight, bias, source, (7, 6))
    for made in (model, linear(weight[:, :, 0, 0], bias, source)):
        assert_equal_on(INT8 if inputs == 1000 else FLOAT32, made, source)
