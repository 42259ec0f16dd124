# SPDX-License-Identifier: MIT
"""Tables of bytes in TVM, many entries at a time: the model's own. Where a CPU lacks the instruction, it is compiled, not run."""

from __future__ import annotations

import shutil
import subprocess
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.benchmark import load_engine
from bitwright.integer import IntegerModel, QuantParams, run
from bitwright.integer.operations.table import IntegerTable, real_results, rounded_entries
from bitwright.integer.ops import Quantize
from bitwright.integer.outputs import single_output
from bitwright.quantizer.formats import TensorFormat
from bitwright.scheme import Scheme

tvm = pytest.importorskip("tvm", reason="the extra 'tvm' is not installed")
compilers = pytest.importorskip("tvm.support.cc")

from bitwright.export.tvm.exporter import _target, export_tvm, instructions_of  # noqa: E402
from bitwright.export.tvm.kernels.instructions import Choices, Instructions  # noqa: E402

pytestmark = pytest.mark.skipif(compilers.get_cc() is None, reason="no C compiler to link what TVM makes")

BYTE, SIGNED, WINDOW = TensorFormat.unsigned(8), TensorFormat.symmetric(8), TensorFormat(8, -31, 224)


def table(window: TensorFormat, form: TensorFormat, shape: tuple[int, int, int]) -> IntegerModel:
    """Squares less a line, which rise and fall, of a format in another."""
    source = QuantParams(window, 1 / 16)
    program = ("x", "x", "mul", "x", 5.0, "mul", "sub")
    real = real_results(program, source, 1.0)
    scale = float(np.abs(real).max() / max(form.quant_max, 1))
    entries = rounded_entries(real / scale, form.quant_min, form.quant_max)
    limits = {"low": window.quant_min, "high": window.quant_max}
    ops = (
        Quantize(name="input", inputs=(), shape=shape, scale=source.scale, **limits),
        IntegerTable(name="table", inputs=("input",), shape=shape, program=program, computable=False, entries=entries),
    )
    formats = {"input": source, "table": QuantParams(form, scale)}
    unit = single_output("table", np.array([scale]))
    return IntegerModel("table", Scheme("none", {}), ops, formats, unit)


@pytest.mark.parametrize(
    ("window", "form", "shape"),
    [
        pytest.param(BYTE, SIGNED, (1, 8, 8), id="one vector"),
        pytest.param(SIGNED, BYTE, (1, 5, 13), id="one vector and one element"),
        pytest.param(WINDOW, WINDOW, (3, 60, 61), id="windows of 16 bits, several tasks"),
        pytest.param(TensorFormat(8, -255, 0), TensorFormat(8, -200, 55), (1, 11, 17), id="mostly negative"),
        pytest.param(TensorFormat.symmetric(3), BYTE, (2, 6, 6), id="few entries"),
        pytest.param(SIGNED, TensorFormat.symmetric(16), (1, 9, 9), id="results of 16 bits"),
        pytest.param(BYTE, BYTE, (1, 7, 9), id="less than a vector"),
    ],
)
def test_every_entry(
    window: TensorFormat,
    form: TensorFormat,
    shape: tuple[int, int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a load for each, by loads in place of the instruction, and by the instruction where this CPU has it."""
    model = table(window, form, shape)
    integers = np.resize(np.arange(window.quant_min, window.quant_max + 1), (6, prod(shape)))
    images = torch.from_numpy((integers / 16).astype(np.float32)).reshape(-1, *shape)
    expected = run(model, images).numpy()
    own = instructions_of(_target(None))
    for choices in {Choices.NONE, Choices.PLAIN, own.choices}:
        with monkeypatch.context() as patch:
            using = Instructions(own.avx2, own.dots, choices)
            patch.setattr("bitwright.export.tvm.exporter.instructions_of", lambda target, using=using: using)
            export_tvm(model, tmp_path / "model.so")
        for threads, count in ((1, 6), (2, 1)):
            got = load_engine("tvm", tmp_path / "model.so", threads=threads)(images[:count].numpy())
            assert np.array_equal(got, expected[:count]), choices


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
@pytest.mark.parametrize(("cpu", "found"), [("znver4", True), ("cascadelake", False), ("haswell", False)])
def test_the_instruction_is_compiled(cpu: str, found: bool, tmp_path: Path) -> None:
    """For a CPU with VBMI, on any machine; for none without."""
    export_tvm(table(BYTE, BYTE, (4, 16, 16)), tmp_path / "model.so", tvm_target=cpu)
    listing = subprocess.run(
        ["objdump", "--disassemble", tmp_path / "model.so"], capture_output=True, text=True, check=True
    ).stdout
    assert any(name in listing for name in ("vpermi2b", "vpermt2b")) == found
