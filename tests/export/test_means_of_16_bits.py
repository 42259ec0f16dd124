# SPDX-License-Identifier: MIT
"""Means over tensors of 16 bits: no optimiser folds their multiplier into the ones that sum them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper

from bitwright.benchmark import load_engine
from bitwright.export import form_of
from bitwright.integer import IntegerModel, Multipliers, QuantParams, run
from bitwright.integer.ops import IntegerAvgPool2d, Quantize, Rescale
from bitwright.integer.outputs import single_output
from bitwright.integer.proof.certificate import float32_agrees
from bitwright.scheme import Precision, Scheme

SIDE, LARGEST = 5, 2**16 - 1


def mean_of_a_stream() -> IntegerModel:
    """One mean of 25 values of 16 bits, by a proved multiplier of 24 bits that has no short form."""
    multipliers = Multipliers(np.array([1]), np.array([0]))
    for odd in range(2**23 + 3_000_001, 2**24, 2):
        multipliers = Multipliers(np.array([odd]), np.array([36]))
        if float32_agrees(multipliers, np.array([0]), np.array([SIDE**2 * LARGEST]), 0, 255).all():
            break
    shape = {"shape": (1, SIDE, SIDE), "place": ""}
    wide, byte = QuantParams.unsigned(16, 2.0**-10), QuantParams.unsigned(8, 1.0)
    ops = (
        Quantize(name="input", inputs=(), scale=wide.scale, low=0, high=LARGEST, **shape),
        IntegerAvgPool2d(
            name="mean", inputs=("input",), shape=(1, 1, 1), place="", kernel=(SIDE, SIDE), stride=(1, 1), padding=(0, 0),
            rescale=Rescale(multipliers, 0, 255),
        ),
    )  # fmt: skip
    scheme = Scheme.uniform(["none"], Precision(8, 8))
    return IntegerModel("mean", scheme, ops, {"input": wide, "mean": byte}, single_output("mean"))


def images_next_to_thresholds(model: IntegerModel) -> torch.Tensor:
    """For each result, images whose sums are the last below its threshold and the first above, in uneven parts."""
    generator = np.random.default_rng(0)
    pool = model.ops[1]
    assert isinstance(pool, IntegerAvgPool2d)
    assert pool.rescale is not None
    ratio = pool.rescale.multipliers.real()[0]
    first = np.floor((np.arange(255) + 0.5) / ratio).astype(int)
    sums = np.concatenate([first, first + 1]).repeat(8)
    sums = sums[sums <= SIDE**2 * LARGEST * 0.9]
    parts = generator.dirichlet(np.full(SIDE**2, 8.0), len(sums))
    values = np.floor(parts * sums[:, None]).clip(0, LARGEST).astype(int)
    for row, total in zip(values, sums, strict=True):
        while (missing := total - row.sum()) > 0:
            place = int(np.argmin(row))
            row[place] = min(LARGEST, row[place] + missing)
    return torch.from_numpy((values * model.formats["input"].scale).astype(np.float32)).reshape(-1, 1, SIDE, SIDE)


@pytest.mark.parametrize("form", ["qdq", "qoperator"])
def test_multipliers_stay_behind_the_sums(form: str, tmp_path: Path) -> None:
    """Sums next to thresholds are rounded as they should be at every level, and the ones stay ones."""
    model = mean_of_a_stream()
    form_of("onnx", form).export(model, tmp_path / "model.onnx")
    images = images_next_to_thresholds(model)
    expected = run(model, images).numpy()
    assert np.unique(expected).size > 100
    for level in ("none", "basic", "extended", "all"):
        got = load_engine("onnxruntime", tmp_path / "model.onnx", level=level)(images.numpy())
        assert np.array_equal(got, expected), level
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), options, providers=["CPUExecutionProvider"])
    made = onnx.load(tmp_path / "optimised.onnx").graph
    (conv,) = (node for node in made.node if node.op_type == "Conv")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.initializer}
    assert (stored[conv.input[1]] == 1).all()
