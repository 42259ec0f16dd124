# SPDX-License-Identifier: MIT
"""Dot products of bytes in TVM: the same integers as in words. Where a CPU lacks the instruction, it is compiled, not run."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.benchmark import environment, load_engine
from bitwright.graph.nodes import Concat, Node, Pair
from bitwright.integer import IntegerModel, QuantParams, run
from bitwright.integer.multipliers import INT32_MAX, INT32_MIN, Multipliers
from bitwright.integer.ops import IntegerConv2d, Quantize, Rescale
from bitwright.integer.outputs import single_output
from bitwright.scheme import Scheme
from export.one_layer import convolution

tvm = pytest.importorskip("tvm", reason="the extra 'tvm' is not installed")
compilers = pytest.importorskip("tvm.support.cc")

from bitwright.export.tvm.exporter import WITHOUT, _target, export_tvm, instructions_of  # noqa: E402
from bitwright.export.tvm.kernels.instructions import Choices, Dots, Instructions  # noqa: E402
from bitwright.export.tvm.operations.layers import bias_of_bytes  # noqa: E402

pytestmark = pytest.mark.skipif(compilers.get_cc() is None, reason="no C compiler to link what TVM makes")

IMAGE, CHANNELS = (5, 7), 6
FILTERS = (1, 16, 17, 33, 64)
"""Fewer than a vector, one, between, two, more than two, so that blocks overlap."""


def layers(params: QuantParams) -> IntegerModel:
    """Convolutions of every number of filters, grouped, dilated and strided ones, of the same bytes: all of their sums."""
    generator = np.random.default_rng(0)
    wide, once = QuantParams.symmetric(32, 1.0), Multipliers(np.ones(1, np.int64), np.zeros(1, np.int32))

    def conv(name: str, filters: int, kernel: int, padding: int, dilation: int = 1, groups: int = 1) -> Node:
        weight = generator.integers(-128, 128, (filters, CHANNELS // groups, kernel, kernel)).astype(np.int8)
        weight[0], weight[-1] = 127, -128
        return IntegerConv2d(
            name=name, inputs=("x",), shape=(filters, *IMAGE), rescale=Rescale(once, INT32_MIN, INT32_MAX), weight=weight,
            weight_bits=8, bias=generator.integers(-(2**20), 2**20, filters).astype(np.int32), stride=(1, 1),
            padding=(padding, padding), dilation=(dilation, dilation), groups=groups,
        )  # fmt: skip

    ops = [conv(f"filters{filters}", filters, 3, 1) for filters in FILTERS]
    ops += [conv("one", 20, 1, 0), conv("dilated", 20, 3, 2, dilation=2), conv("grouped", 36, 3, 1, groups=2)]
    together = Concat(name="all", inputs=tuple(op.name for op in ops), shape=(sum(op.shape[0] for op in ops), *IMAGE))
    limits = {"low": params.quant_min, "high": params.quant_max}
    first = Quantize(name="x", inputs=(), shape=(CHANNELS, *IMAGE), scale=1.0, **limits)
    formats = {"x": params} | {op.name: wide for op in (*ops, together)}
    return IntegerModel("dots", Scheme("none", {}), (first, *ops, together), formats, single_output("all"))


def plain(target: object) -> Instructions:
    """A CPU whose dot products are plain arithmetic."""
    return Instructions(avx2=True, dots=Dots.PLAIN)


@pytest.mark.parametrize(
    "params",
    [
        pytest.param(QuantParams.unsigned(8, 1.0), id="unsigned", marks=pytest.mark.slow),
        pytest.param(QuantParams.symmetric(8, 1.0), id="signed"),
    ],
)
def test_every_form_of_layer(params: QuantParams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In plain arithmetic, on the largest and smallest bytes and between; and by the instruction where this CPU has it."""
    model = layers(params)
    images = torch.randint(params.quant_min, params.quant_max + 1, (4, CHANNELS, *IMAGE)).float()
    images[1], images[2] = params.quant_max, params.quant_min
    expected = run(model, images).numpy()
    kinds = [Dots.PLAIN] + [Dots.VNNI] * ("avx512_vnni" in environment().instructions)
    for kind in kinds:
        with monkeypatch.context() as patch:
            if kind is Dots.PLAIN:
                patch.setattr("bitwright.export.tvm.exporter.instructions_of", plain)
            stated = export_tvm(model, tmp_path / "model.so")
        assert "dot products" in stated["instructions"]
        for threads, count in ((1, 1), (2, 4)):
            got = load_engine("tvm", tmp_path / "model.so", threads=threads)(images[:count].numpy())
            assert np.array_equal(got, expected[:count])


@pytest.mark.parametrize(
    ("cpu", "dots", "choices"),
    [
        ("haswell", Dots.NONE, Choices.NONE), ("skylake-avx512", Dots.NONE, Choices.NONE), ("alderlake", Dots.NONE, Choices.NONE),
        ("cascadelake", Dots.VNNI, Choices.NONE), ("cannonlake", Dots.NONE, Choices.VBMI),
        ("sapphirerapids", Dots.VNNI, Choices.VBMI), ("znver3", Dots.NONE, Choices.NONE), ("znver4", Dots.VNNI, Choices.VBMI),
    ],
)  # fmt: skip
def test_processors(cpu: str, dots: Dots, choices: Choices) -> None:
    """Only those with 512-bit dot products and choices of bytes use them."""
    assert instructions_of(_target(cpu)) == Instructions(avx2=True, dots=dots, choices=choices)
    other = _target('{"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mcpu": "neoverse-n1"}')
    assert instructions_of(other) == Instructions(avx2=False)


@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump")
def test_the_instruction_is_compiled(tmp_path: Path) -> None:
    """For a CPU with VNNI, on any machine: 512-bit dot products, 14 sums in registers, and no word or byte products of AVX2."""
    weight = np.random.default_rng(0).integers(-127, 128, (64, 64, 3, 3)).astype(np.int8)
    model = convolution(weight, np.zeros(64, np.int32), QuantParams.unsigned(8, 1.0), (14, 14), padding=(1, 1))
    stated = export_tvm(model, tmp_path / "model.so", tvm_target="cascadelake")
    assert stated["instructions"] == "AVX-512 VNNI dot products of bytes"
    listing = subprocess.run(
        ["objdump", "--disassemble", tmp_path / "model.so"], capture_output=True, text=True, check=True
    ).stdout
    dots = re.findall(r"vpdpbusd\s+.*,(%[xyz]mm\d+)$", listing, flags=re.MULTILINE)
    assert {name[:4] for name in dots} == {"%zmm"}
    assert len(set(dots)) == 14
    assert not re.search(r"vpmaddubsw|vpmaddwd|vpdpbusds", listing)


@pytest.mark.parametrize(
    ("image", "inputs", "filters", "groups", "stride", "source"),
    [
        pytest.param((1, 5), 8, 8, 5, (2, 2), QuantParams.unsigned(8, 1.0), id="strided"),
        pytest.param((1, 1), 8, 8, 1, (1, 1), QuantParams.symmetric(2, 1.0), id="one pixel"),
        pytest.param((1, 4), 4, 3, 9, (1, 1), QuantParams.unsigned(8, 1.0), id="few channels"),
    ],
)
def test_padded_images_of_one_row(
    image: Pair, inputs: int, filters: int, groups: int, stride: Pair, source: QuantParams, tmp_path: Path
) -> None:
    """Optimised by LLVM, which knows that two of three rows of the kernel read padding alone."""
    generator, result = np.random.default_rng(0), QuantParams.symmetric(9, 1.0)
    weight = generator.integers(-127, 128, (filters * groups, inputs, 3, 3)).astype(np.int8)
    bias = generator.integers(-100, 100, filters * groups).astype(np.int32)
    largest = 127.0 * inputs * source.quant_max
    model = convolution(
        weight, bias, source, image, padding=(1, 1), stride=stride, groups=groups, result=result, largest=largest
    )
    vnni = "avx512_vnni" in environment().instructions
    export_tvm(model, tmp_path / "model.so", tvm_target="cascadelake")
    if vnni:
        images = torch.randint(source.quant_min, source.quant_max + 1, (9, *model.input_shape)).float()
        expected = run(model, images).numpy()
        assert len(np.unique(expected)) > 20
        assert np.array_equal(load_engine("tvm", tmp_path / "model.so", threads=1)(images.numpy()), expected)


def test_options_of_a_target_stay() -> None:
    """Beside the one that leaves out a pass; and a target that LLVM does not compile for has none of it."""
    given = '{"kind": "llvm", "mcpu": "haswell", "cl-opt": ["-inline-threshold:int=9"]}'
    assert list(_target(given).attrs["cl-opt"]) == ["-inline-threshold:int=9", WITHOUT]
    assert list(_target("haswell").attrs["cl-opt"]) == [WITHOUT]
    assert "cl-opt" not in _target('{"kind": "c"}').attrs


@pytest.mark.parametrize(
    ("inputs", "stored"), [(INT32_MAX // (127 * 255), True), (INT32_MAX // (127 * 255) + 1, False)]
)
def test_sums_that_zero_points_would_take_beyond_int32(inputs: int, stored: bool) -> None:
    """Signed bytes are stored from zero up, unless sums of such bytes could leave int32: then they stay words."""
    params, weight = QuantParams.symmetric(8, 1.0), np.full((2, inputs, 1, 1), 127, np.int8)
    model = convolution(weight, np.array([-INT32_MAX + 127 * 128 * inputs, 5], np.int32), params, (2, 2))
    (layer,) = model.layers().values()
    assert isinstance(layer, IntegerConv2d)
    bias = bias_of_bytes(layer, params)
    assert (bias is not None) == stored
    if bias is not None:
        for value in (-128, 127):
            products = layer.weight.reshape(2, -1).astype(np.int64)
            assert np.array_equal((products * (value + 128)).sum(1) + bias, (products * value).sum(1) + layer.bias)
