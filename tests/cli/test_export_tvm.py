# SPDX-License-Identifier: MIT
"""`bitwright export --engine tvm`: compiles for this machine or another, and refuses its option to other engines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.benchmark import load_engine
from bitwright.errors import FileFormatError
from bitwright.integer import IntegerModel, QuantParams, run
from bitwright.integer.multipliers import Multipliers
from bitwright.integer.ops import IntegerRequantize, Quantize, Rescale
from bitwright.integer.outputs import single_output
from bitwright.integer.reader import load_integer
from bitwright.scheme import Scheme
from cli.conftest import Command

pytest.importorskip("tvm", reason="the extra 'tvm' is not installed")
compilers = pytest.importorskip("tvm.support.cc")

pytestmark = pytest.mark.skipif(compilers.get_cc() is None, reason="no C compiler to link what TVM makes")

SHAPE = (2, 5, 7)


@pytest.fixture
def integer(tmp_path: Path) -> Path:
    """A model that halves what it quantizes, halves to even."""
    params, doubled = QuantParams.symmetric(8, 0.5), QuantParams.symmetric(8, 1.0)
    rescale = Rescale(Multipliers(np.array([1]), np.array([1])), -128, 127)
    ops = (
        Quantize(name="x", inputs=(), shape=SHAPE, scale=0.5, low=-128, high=127),
        IntegerRequantize(name="half", inputs=("x",), shape=SHAPE, rescale=rescale),
    )
    model = IntegerModel("tiny", Scheme("none", {}), ops, {"x": params, "half": doubled}, single_output("half"))
    model.save(tmp_path / "tiny.integer")
    return tmp_path / "tiny.integer"


@pytest.mark.parametrize("options", [(), ("--tvm-target", "x86-64-v3")])
def test_export(options: tuple[str, ...], integer: Path, bitwright: Command) -> None:
    """The library that the command writes gives the model's integers; a part of it is refused, where mapping it would kill."""
    made = bitwright("export", integer, "--engine", "tvm", *options, "-o", integer.with_suffix(".so"), "--json")
    assert json.loads(made.out)["size_bytes"] == integer.with_suffix(".so").stat().st_size
    images = 40 * torch.randn(3, *SHAPE)
    got = load_engine("tvm", integer.with_suffix(".so"))(images.numpy())
    assert np.array_equal(got, run(load_integer(integer), images).numpy())
    whole = integer.with_suffix(".so").read_bytes()
    for size in (30, 8192, len(whole) - 1):
        integer.with_suffix(".so").write_bytes(whole[:size])
        with pytest.raises(FileFormatError, match=f"TVM cannot read .*: the library is cut off at {size} bytes"):
            load_engine("tvm", integer.with_suffix(".so"))


def test_refusals(integer: Path, bitwright: Command) -> None:
    """One line each."""
    refused = bitwright("export", integer, "-o", integer.with_suffix(".onnx"), "--tvm-target", "haswell")
    assert (refused.status, "--tvm-target is for the engine tvm, got onnx" in refused.err) == (1, True)
    refused = bitwright("export", integer, "--engine", "tvm", "-o", integer.with_suffix(".tvm"))
    assert (refused.status, "expected '.so', got" in refused.err) == (1, True)
