# SPDX-License-Identifier: MIT
"""Rescaling in TVM: float32 where it is proved to give the integers, 64 bits elsewhere, and the same results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.benchmark import load_engine
from bitwright.integer import IntegerModel, Multipliers, QuantParams, run
from bitwright.integer.ops import IntegerRequantize, Quantize, Rescale
from bitwright.integer.outputs import single_output
from bitwright.integer.proof.certificate import certify_requantize, float32_agrees
from bitwright.quantizer.formats import TensorFormat
from bitwright.scheme import Scheme

tvm = pytest.importorskip("tvm", reason="the extra 'tvm' is not installed")
compilers = pytest.importorskip("tvm.support.cc")

from bitwright.export.tvm.exporter import export_tvm  # noqa: E402
from bitwright.export.tvm.kernels.rescaling import agrees_in_float32, plan_rounding  # noqa: E402

pytestmark = pytest.mark.skipif(compilers.get_cc() is None, reason="no C compiler to link what TVM makes")

SOURCE, LARGEST = QuantParams.symmetric(16, 1.0), np.array([2**15])


def requantized(
    multipliers: Multipliers, window: TensorFormat, low: int, high: int, proved: bool = False
) -> IntegerModel:
    """All integers of 16 bits at another scale."""
    shape = (1, 256, 256)
    limits = {"low": SOURCE.quant_min, "high": SOURCE.quant_max}
    ops = (
        Quantize(name="x", inputs=(), shape=shape, scale=1.0, **limits),
        IntegerRequantize(name="y", inputs=("x",), shape=shape, rescale=Rescale(multipliers, low, high)),
    )
    scale = float(1 / multipliers.real()[0])
    formats = {"x": SOURCE, "y": QuantParams(window, scale)}
    facts = {"y": {"exhaustive": 1}} if proved else {}
    return IntegerModel(
        "requantized", Scheme("none", {}), ops, formats, single_output("y", np.array([scale])), facts=facts
    )


def assert_equal(model: IntegerModel, folder: Path) -> None:
    """Every integer, in the library and in the reference executor."""
    images = torch.arange(-(2**15), 2**15).float().reshape(1, 1, 256, 256)
    export_tvm(model, folder / "model.so")
    expected = run(model, images).numpy()
    assert np.unique(expected).size > 10
    assert np.array_equal(load_engine("tvm", folder / "model.so")(images.numpy()), expected)


@pytest.mark.parametrize(
    ("ratio", "window", "low", "high", "proved"),
    [
        (0.0039, TensorFormat.unsigned(8), 0, 255, False),
        (0.125, TensorFormat(8, -31, 224), -31, 200, False),
        (3.3e-3, TensorFormat.symmetric(8), -128, 127, True),
        (1.0625, TensorFormat.symmetric(16), -(2**15), 2**15 - 1, True),
        (0.75, TensorFormat.unsigned(16), 0, 2**16 - 1, True),
    ],
)
def test_proved_ratios_are_float32(
    ratio: float, window: TensorFormat, low: int, high: int, proved: bool, tmp_path: Path
) -> None:
    """By a certificate in the facts, or, of few bits, by every accumulator: halves and clamps among them."""
    found = certify_requantize(ratio, SOURCE.quant_min, SOURCE.quant_max, low, high).multipliers
    rounding, constants = plan_rounding(Rescale(found, low, high), LARGEST, 1, proved=proved)
    assert rounding.real
    assert [values.dtype for values in constants.arrays] == [np.float32]
    assert_equal(requantized(found, window, low, high, proved), tmp_path)


def test_others_are_not(tmp_path: Path) -> None:
    """Where float32 gives another integer for some accumulator, or nobody proved that it does not, kernels take 64 bits."""
    wrong = next(
        found
        for odd in range(2**23 + 1, 2**24, 2)
        for found in [Multipliers(np.array([odd]), np.array([31]))]
        if not float32_agrees(found, -(2**15), 2**15, -128, 127).all()
    )
    rescale = Rescale(wrong, -128, 127)
    assert not agrees_in_float32(rescale, LARGEST)
    assert not plan_rounding(rescale, LARGEST, 1)[0].real
    assert_equal(requantized(wrong, TensorFormat.symmetric(8), -128, 127), tmp_path)
    exact = Rescale(Multipliers(np.array([1]), np.array([2])), 0, 255)
    assert agrees_in_float32(exact, np.array([2**31 - 1]))
    assert not agrees_in_float32(exact, np.array([2**31]))
    wide = Rescale(Multipliers(np.array([3]), np.array([2])), -(2**15), 2**15 - 1)
    assert not plan_rounding(wide, LARGEST, 1)[0].real
