# SPDX-License-Identifier: MIT
"""Means over whole images in LiteRT files: sums in float32, exact at every sum there can be, as large as float32 holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.export import export_litert
from bitwright.integer import IntegerModel, QuantParams, run
from bitwright.integer.ops import IntegerAvgPool2d, Quantize, Rescale
from bitwright.integer.outputs import single_output
from bitwright.integer.proof.certificate import certify
from bitwright.quantizer.formats import TensorFormat
from bitwright.scheme import Precision, Scheme
from export.equality import assert_equal
from export.litert_files import operators

pytest.importorskip("ai_edge_litert", reason="the extra 'litert' is not installed")


def mean(side: int, channels: int, params: QuantParams, result: QuantParams, kernel: int | None = None) -> IntegerModel:
    """A mean over an image, or over windows of it, at a proved multiplier near 1.3 over the area."""
    kernel = kernel or side
    area, size = kernel**2, side // kernel
    first = Quantize(
        name="input", inputs=(), shape=(channels, side, side), place="", scale=params.scale,
        low=params.quant_min, high=params.quant_max,
    )  # fmt: skip
    reach = (area * params.quant_min, area * params.quant_max)
    multipliers = certify(1.3 / area, *reach, result.quant_min, result.quant_max).multipliers
    pool = IntegerAvgPool2d(
        name="mean", inputs=("input",), shape=(channels, size, size), place="", kernel=(kernel, kernel),
        stride=(kernel, kernel), padding=(0, 0), rescale=Rescale(multipliers, result.quant_min, result.quant_max),
    )  # fmt: skip
    formats = {"input": params, "mean": result}
    return IntegerModel("mean", Scheme.uniform([], Precision(8, 8)), (first, pool), formats, single_output("mean"))


def images_of(sums: np.ndarray, side: int, channels: int) -> torch.Tensor:
    """An image channel for each sum, of integers that differ by one at most, in random order."""
    area = side**2
    parts = np.repeat((sums // area)[:, None], area, 1) + (np.arange(area) < (sums % area)[:, None])
    mixed = np.random.default_rng(0).permuted(parts, axis=1)
    return torch.from_numpy(mixed.astype(np.float32)).reshape(-1, channels, side, side)


@pytest.mark.parametrize("params", [QuantParams.unsigned(8, 1.0), QuantParams(TensorFormat.starting(8, -100), 1.0)])
@pytest.mark.parametrize("result", [QuantParams.unsigned(8, 1.0), QuantParams(TensorFormat.starting(5, -9), 1.0)])
def test_every_sum(params: QuantParams, result: QuantParams, tmp_path: Path) -> None:
    """All sums of nine integers, from the least to the greatest, at windows of results that need a clamp and ones that do not."""
    channels = 27
    model = mean(3, channels, params, result)
    sums = np.arange(9 * params.quant_min, 9 * params.quant_max + 1)
    sums = np.pad(sums, (0, -len(sums) % channels), mode="edge")
    images = images_of(sums, 3, channels)
    assert np.unique(run(model, images)).size > 20
    assert_equal("litert", model, images, tmp_path / "model.tflite")
    assert "DEPTHWISE_CONV_2D" not in operators(tmp_path / "model.tflite")
    assert "SUM" in operators(tmp_path / "model.tflite")


@pytest.mark.parametrize(("side", "bits"), [(112, 8), (15, 16), (16, 16)])
def test_large_sums(side: int, bits: int, tmp_path: Path) -> None:
    """Sums of large images, and of 16 bits up to 2**24: next to every threshold, and at the ends."""
    params = QuantParams.unsigned(bits, 1.0)
    model = mean(side, 16, params, QuantParams.unsigned(8, 1.0))
    largest = side**2 * params.quant_max
    assert largest < 2**24 + 2**16
    steps = np.ceil((np.arange(255) + 0.5) * side**2 / 1.3).astype(np.int64)
    sums = np.unique(np.clip(np.concatenate([steps - 1, steps, [0, largest - 1, largest]]), 0, largest))
    images = images_of(np.pad(sums, (0, -len(sums) % 16), mode="edge"), side, 16)
    assert_equal("litert", model, images, tmp_path / "model.tflite")


def test_smaller_windows_are_convolutions(tmp_path: Path) -> None:
    """A mean over parts of an image stays a convolution of ones."""
    params = QuantParams.unsigned(8, 1.0)
    export_litert(mean(6, 4, params, params, kernel=3), tmp_path / "model.tflite")
    assert "DEPTHWISE_CONV_2D" in operators(tmp_path / "model.tflite")
    assert "SUM" not in operators(tmp_path / "model.tflite")
