# SPDX-License-Identifier: MIT
"""Depthwise layers in TVM, four taps at a time: the model's sums. Where a CPU lacks the instruction, it is compiled, not run."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch

from bitwright.benchmark import load_engine
from bitwright.integer import IntegerModel, QuantParams, run
from bitwright.integer.multipliers import INT32_MAX, INT32_MIN, Multipliers
from bitwright.integer.ops import IntegerConv2d, Quantize, Rescale
from bitwright.integer.outputs import single_output
from bitwright.quantizer.formats import TensorFormat
from bitwright.scheme import Scheme

tvm = pytest.importorskip("tvm", reason="the extra 'tvm' is not installed")
compilers = pytest.importorskip("tvm.support.cc")

from bitwright.export.tvm.exporter import _target, export_tvm, instructions_of  # noqa: E402
from bitwright.export.tvm.kernels.instructions import Choices, Dots, Instructions  # noqa: E402

pytestmark = pytest.mark.skipif(compilers.get_cc() is None, reason="no C compiler to link what TVM makes")

BYTE, SIGNED, WINDOW = TensorFormat.unsigned(8), TensorFormat.symmetric(8), TensorFormat(8, -31, 224)


class Case(NamedTuple):
    """A depthwise layer."""

    window: TensorFormat
    channels: int
    image: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)


CASES = {
    "one vector": Case(BYTE, 16, (7, 9), (3, 3), padding=(1, 1)),
    "five taps, overlapping vectors": Case(SIGNED, 33, (8, 7), (5, 5), padding=(2, 2)),
    "stride": Case(WINDOW, 20, (11, 13), (3, 3), stride=(2, 2), padding=(1, 1)),
    "stride three, seven taps": Case(BYTE, 17, (20, 22), (7, 7), stride=(3, 3), padding=(3, 3)),
    "dilation": Case(WINDOW, 24, (13, 15), (3, 5), padding=(2, 6), dilation=(2, 3)),
    "dilation and stride": Case(SIGNED, 16, (14, 21), (3, 6), stride=(1, 2), dilation=(1, 3)),
    "one tap, a stride": Case(BYTE, 33, (9, 12), (1, 1), stride=(2, 2)),
    "one tap, a stride across, padding": Case(WINDOW, 16, (6, 11), (1, 1), stride=(1, 2), padding=(1, 1)),
    "one tap, a stride of three, several tasks": Case(SIGNED, 20, (300, 290), (1, 1), stride=(3, 3)),
    "several tasks": Case(BYTE, 18, (150, 140), (3, 3), padding=(1, 1)),
    "the image is the kernel": Case(WINDOW, 40, (6, 4), (6, 4)),
    "less than a vector": Case(BYTE, 15, (7, 9), (3, 3), padding=(1, 1)),
}


def layer(case: Case) -> IntegerModel:
    """All sums of the layer, the largest and the smallest weights among its own."""
    generator = np.random.default_rng(0)
    weight = generator.integers(-128, 128, (case.channels, 1, *case.kernel)).astype(np.int8)
    weight[0], weight[-1] = 127, -128
    params, sums = QuantParams(case.window, 1.0), QuantParams.symmetric(32, 1.0)
    sides = zip(case.image, case.padding, case.dilation, case.kernel, case.stride, strict=True)
    out = tuple((size + 2 * pad - gap * (taps - 1) - 1) // step + 1 for size, pad, gap, taps, step in sides)
    once = Rescale(Multipliers(np.ones(1, np.int64), np.zeros(1, np.int32)), INT32_MIN, INT32_MAX)
    ops = (
        Quantize(
            name="x", inputs=(), shape=(case.channels, *case.image), scale=1.0, low=params.quant_min, high=params.quant_max
        ),
        IntegerConv2d(
            name="sums", inputs=("x",), shape=(case.channels, *out), rescale=once, weight=weight, weight_bits=8,
            bias=generator.integers(-(2**20), 2**20, case.channels).astype(np.int32), stride=case.stride,
            padding=case.padding, dilation=case.dilation, groups=case.channels,
        ),
    )  # fmt: skip
    return IntegerModel("depthwise", Scheme("none", {}), ops, {"x": params, "sums": sums}, single_output("sums"))


@pytest.mark.parametrize("name", CASES)
def test_every_form_of_layer(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tap by tap, in plain arithmetic of four taps, and by the instruction where this CPU has it: at the ends and between."""
    model = layer(CASES[name])
    params = model.formats["x"]
    images = torch.randint(params.quant_min, params.quant_max + 1, (4, *model.input_shape)).float()
    images[1], images[2] = params.quant_max, params.quant_min
    expected = run(model, images).numpy()
    own = instructions_of(_target(None))
    for dots in {Dots.NONE, Dots.PLAIN, own.dots}:
        with monkeypatch.context() as patch:
            using = Instructions(own.avx2, dots, Choices.NONE)
            patch.setattr("bitwright.export.tvm.exporter.instructions_of", lambda target, using=using: using)
            export_tvm(model, tmp_path / "model.so")
        for threads, count in ((1, 4), (2, 1)):
            got = load_engine("tvm", tmp_path / "model.so", threads=threads)(images[:count].numpy())
            assert np.array_equal(got, expected[:count]), dots


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
@pytest.mark.parametrize(("name", "found"), [("one vector", True), ("less than a vector", False)])
def test_the_instruction_is_compiled(name: str, found: bool, tmp_path: Path) -> None:
    """For a CPU with VNNI, on any machine, where there is a vector of channels."""
    export_tvm(layer(CASES[name]), tmp_path / "model.so", tvm_target="cascadelake")
    listing = subprocess.run(
        ["objdump", "--disassemble", tmp_path / "model.so"], capture_output=True, text=True, check=True
    ).stdout
    assert ("vpdpbusd" in listing) == found
