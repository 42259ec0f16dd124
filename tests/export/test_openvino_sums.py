# SPDX-License-Identifier: MIT
"""Bytes in OpenVINO: sums beyond 2**24, pairs at the end of 16 bits, signed inputs, additions, thresholds of images."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import nn

from bitwright.errors import ExportError
from bitwright.export import Target, to_openvino
from bitwright.export.openvino.kernels import DOUBLED, FLOAT32, INT8, PARTS
from bitwright.integer import IntegerModel, QuantParams, lower
from bitwright.integer.ops import IntegerAdd, Quantize, ReciprocalQuantize
from bitwright.integer.outputs import single_output
from bitwright.integer.proof.bounds import FLOAT32_EXACT
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from export.equality import assert_equal
from export.one_layer import convolution, linear
from graph.networks import Called, captured

openvino = pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")

BYTES = QuantParams.unsigned(8, 1.0), QuantParams.symmetric(8, 1.0)


def kernels(model: IntegerModel, target: Target = Target.ANY) -> list[str]:
    """What each layer runs on."""
    made = to_openvino(model, target)
    return list(json.loads(made.get_rt_info(["bitwright", "kernels"]).astype(str)).values())


def pushing(weight: npt.NDArray[np.int8], source: QuantParams, count: int) -> npt.NDArray[np.float32]:
    """Images of one pixel that push the sums of single outputs to, near or between their ends: [count, channels, 1, 1]."""
    generator = np.random.default_rng(3)
    rows = weight.reshape(len(weight), -1)[generator.integers(0, len(weight), count)]
    up = np.where(rows > 0, source.quant_max, source.quant_min)
    down = np.where(rows > 0, source.quant_min, source.quant_max)
    share = generator.choice([0, 0.05, 0.5, 0.95, 1], (count, 1)) + generator.normal(0, 0.05, (count, 1))
    noise = generator.integers(-1, 2, rows.shape)
    values = np.where(generator.random(rows.shape) < share, up, down) + noise
    return np.clip(values, source.quant_min, source.quant_max).astype(np.float32).reshape(count, -1, 1, 1)


@pytest.mark.parametrize(("bits", "kernel"), [(7, INT8), (8, DOUBLED)])
@pytest.mark.parametrize("source", BYTES, ids=["unsigned", "signed"])
@pytest.mark.parametrize("form", ["image", "pixel", "linear"])
def test_sums_beyond_float32_are_clamped(form: str, source: QuantParams, bits: int, kernel: str) -> None:
    """Sums of bytes may leave 2**24 by far, where all those results are clamped: none differs."""
    generator, most = np.random.default_rng(1), 2 ** (bits - 1) - 1
    weight = generator.integers(-most, most + 1, (12, 6000 // (bits - 5), 1, 1)).astype(np.int8)
    weight[:4] = most * np.array([1, -1, 1, -1]).reshape(-1, 1, 1, 1)
    weight[2:4, ::2] *= -1
    bias = generator.integers(-(2**21), 2**21, 12).astype(np.int32)
    largest = generator.uniform(2**20, 2**23.7, 12)
    result = BYTES[0] if source.format.negative else BYTES[1]
    if form == "linear":
        model, side = linear(weight[..., 0, 0], bias, source, result=result, largest=largest), 1
    else:
        side = 1 if form == "pixel" else 5
        model = convolution(weight, bias, source, (side, side), result=result, largest=largest)
    count = 300 // side
    images = pushing(weight, source, count * side**2).reshape(count, side, side, -1).transpose(0, 3, 1, 2)
    assert kernels(model) == [kernel]
    raw = np.einsum("nchw,oc->nohw", images.astype(np.float64), weight[..., 0, 0].astype(np.float64))
    assert (np.abs(raw) > FLOAT32_EXACT).sum() > 50
    assert len(np.unique(assert_equal("openvino", model, np.ascontiguousarray(images)))) > 100


def test_sums_beyond_float32_that_are_not_clamped_are_cut() -> None:
    """Results that a bias leads back below 2**24, or sums that leave the network: the layer is cut into parts."""
    weight, ratio = np.full((2, 3000, 1, 1), 63, dtype=np.int8), 255 * 2**16
    for bias, kernel in ((0, INT8), (2**18, INT8), (-(2**18), PARTS)):
        biases = np.array([0, bias], dtype=np.int32)
        model = convolution(weight, biases, BYTES[0], (1, 1), result=BYTES[0], largest=ratio)
        raw = convolution(weight, biases, BYTES[0], (1, 1))
        assert (kernels(model), kernels(raw)) == ([kernel], [PARTS])
        images = pushing(weight, BYTES[0], 60)
        assert len(np.unique(assert_equal("openvino", model, images))) > 5
        assert_equal("openvino", raw, images)


@pytest.mark.parametrize("target", [Target.ANY, Target.VNNI])
@pytest.mark.parametrize("source", [*BYTES, QuantParams.symmetric(4, 1.0), QuantParams.unsigned(7, 1.0)])
def test_which_layers_can_saturate(source: QuantParams, target: Target) -> None:
    """Weights of 7 bits are multiplied as bytes; others with doubled inputs, in groups as float32 numbers; with VNNI, all are.

    Signed inputs are stored with 128 added, so that of 4 bits they are bytes as large as of 8.
    """
    for most, groups in product((64, 65), (1, 2, 8)):
        weight = np.full((8, 8 // groups, 3, 3), most, dtype=np.int8)
        model = convolution(weight, np.zeros(8, dtype=np.int32), source, (5, 5), groups=groups)
        fits = most == 64 or target is Target.VNNI or source.bit_width == 7
        assert kernels(model, target) == [INT8 if fits else DOUBLED if groups == 1 else FLOAT32]


@pytest.mark.parametrize("source", [*BYTES, QuantParams.symmetric(4, 1.0), QuantParams.unsigned(3, 1.0)])
@pytest.mark.parametrize("most", [64, 128])
def test_pairs_do_not_saturate(source: QuantParams, most: int) -> None:
    """The worst pairs of products, at all places of a window, padding included: kernels of bytes are exact on every CPU."""
    generator = np.random.default_rng(0)
    ends = np.array([-most, min(most, 127)], dtype=np.int8)
    for channels, outputs, kernel, groups in (
        (3, 16, 3, 1),
        (8, 24, 1, 1),
        (33, 17, 3, 1),
        (16, 16, 3, 16),
        (12, 24, 3, 3),
    ):
        weight = generator.choice(ends, (outputs, channels // groups, kernel, kernel))
        weight[0], weight[1] = ends[0], ends[1]
        bias = generator.integers(-99, 99, outputs).astype(np.int32)
        model = convolution(weight, bias, source, (6, 6), padding=(kernel // 2,) * 2, groups=groups)
        limits = np.array([source.quant_min, source.quant_max])
        images = generator.choice(limits, (6, channels, 6, 6))
        images[0], images[1] = limits[0], limits[1]
        assert_equal("openvino", model, images.astype(np.float32))


def scales() -> list[float]:
    """Scales of images, from the smallest to the largest that are taken."""
    generator = np.random.default_rng(0)
    return [2.0**-100, 2.0**100, 1.0, 2 / 255, 0.1, *np.float32(generator.uniform(1e-3, 1, 5)).tolist(), 3e-30, 7e25]


@pytest.mark.parametrize("kind", [Quantize, ReciprocalQuantize])
def test_images_at_all_thresholds(kind: Any) -> None:
    """Every image value at which an integer rises, and its neighbours; zeros and the largest numbers."""
    formats = [*BYTES, QuantParams.symmetric(2, 1.0), QuantParams.unsigned(5, 1.0)]
    for scale, source in zip(scales(), 3 * formats, strict=True):
        limits = {"low": source.quant_min, "high": source.quant_max}
        op = kind(name="input", inputs=(), shape=(1, 1, 1), place="", scale=scale, **limits)
        params = QuantParams(source.format, scale)
        model = IntegerModel(
            "images", Scheme("none", {}), (op,), {"input": params}, single_output("input", np.full(1, scale))
        )
        steps = np.arange(source.quant_min - 3, source.quant_max + 4)
        near = [np.float32((steps - 0.5) * scale)]
        for direction in (-np.inf, np.inf):
            value = near[0]
            for _ in range(3):
                near.append(value := np.nextafter(value, np.float32(direction)))
        ends = [0.0, -0.0, 1e-45, 3e38, -3e38, np.finfo(np.float32).max, np.finfo(np.float32).min]
        images = np.concatenate([*near, np.float32(steps * scale), np.float32(ends)]).reshape(-1, 1, 1, 1)
        assert set(np.unique(assert_equal("openvino", model, images))) == set(
            range(source.quant_min, source.quant_max + 1)
        )


def test_scales_of_images_that_have_no_inverse_are_refused() -> None:
    """Products with the inverse of a scale beyond 2**100 are no normal numbers."""
    op = Quantize(name="input", inputs=(), shape=(1, 1, 1), place="", scale=2.0**101, low=0, high=255)
    params = QuantParams.unsigned(8, op.scale)
    model = IntegerModel(
        "images", Scheme("none", {}), (op,), {"input": params}, single_output("input", np.full(1, op.scale))
    )
    with pytest.raises(
        ExportError, match=r"'input': expected a scale of images from 2\*\*-100 to 2\*\*100, got 2.54e\+30"
    ):
        to_openvino(model)


RESIDUAL = Called(
    # Streams that layers and additions both read: of a convolution, an addition, a pool, and parts of these.
    lambda net, images: net.last(
        net.joined(
            (pooled := net.pool(net.first(images).relu()))
            + (second := net.second(pooled).relu())
            + torch.cat([net.pool(second).chunk(2, 1)[0], net.small(second)], 1)
            + net.pool(net.third(second))
        )
        .relu()
        .flatten(1)
    ),
    first=nn.Conv2d(3, 16, 3, padding=1),
    pool=nn.MaxPool2d(3, 1, 1),
    second=nn.Conv2d(16, 16, 3, padding=1),
    small=nn.Conv2d(16, 8, 1),
    third=nn.Conv2d(16, 16, 3, padding=1),
    joined=nn.Conv2d(16, 8, 3, 2),
    last=nn.Linear(8 * 9, 10),
)


@pytest.mark.parametrize(("precision", "residual_bits"), [("W7A8", 8), ("W8A8", 8), ("W4A4", 8), ("W8A8", 16)])
def test_additions_read_bytes(precision: str, residual_bits: int) -> None:
    """What a layer reads as bytes, additions and pools read so too, and stay apart from what is before and behind them."""
    graph = captured(RESIDUAL)
    images = torch.randn(24, 3, 8, 8)
    scheme = Scheme("all", dict.fromkeys(graph.layers, Precision.parse(precision)), residual_bits)
    model = lower(calibrate(quantize(graph, scheme), [images], "minmax"))
    assert len([op for op in model if isinstance(op, IntegerAdd)]) == 3
    assert len(np.unique(assert_equal("openvino", model, images.numpy()))) > 100


def test_additions_of_bytes_round_once() -> None:
    """Two tensors that layers read as bytes, added at ratios whose sums are often halves: nothing is rounded but these."""
    source, eye = BYTES[0], np.eye(4, dtype=np.int8).reshape(4, 4, 1, 1)
    images = np.random.default_rng(0).integers(0, 256, (64, 4, 6, 6)).astype(np.float32)
    model = convolution(
        eye,
        np.array([0, 5, -3, 9], dtype=np.int32),
        source,
        (6, 6),
        result=source,
        largest=[255.0, 300.0, 217.0, 411.0],
    )
    for ratios in ((2**14, 3 * 2**13), (5 * 2**11, 7 * 2**12), (2**13, 11 * 2**11), (12345, 2**13)):
        chain = ("input", "a"), ("a", "b"), ("b", "c")
        layers = [replace(model.ops[-1], name=name, inputs=(given,)) for given, name in chain]
        common = {"place": "", "shape": (4, 6, 6), "multipliers": ratios, "shift": 15, "low": 0, "high": 255}
        sums = [
            IntegerAdd(name=f"{left}{right}", inputs=(left, right), **common) for left, right in ("ab", ("ab", "c"))
        ]
        ops = (model.ops[0], *layers, *sums)
        formats = dict.fromkeys((op.name for op in ops), source)
        assert_equal("openvino", replace(model, ops=ops, formats=formats, outputs=single_output("abc")), images)
