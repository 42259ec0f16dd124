# SPDX-License-Identifier: MIT
"""Layers that write 16 bits multiply signed images, where no pair of products can leave int16, and give the same sums."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from bitwright.benchmark import load_engine
from bitwright.export import Target, export_onnx, to_onnx
from bitwright.export.onnx.sums import INT16_MAX, INT16_MIN, signed_pairs_fit
from bitwright.integer import IntegerModel, Multipliers, QuantParams, run
from bitwright.integer.ops import IntegerConv2d, Rescale
from bitwright.quantizer.formats import TensorFormat
from export.formats import CHANNELS, SIDE, network
from export.models import RESNET20, integer_model


def image_types(made: onnx.ModelProto) -> dict[str, int]:
    """The type of the images that each ConvInteger multiplies."""
    casts = {
        node.output[0] for node in made.graph.node if node.op_type == "Cast" and node.attribute[0].i == TensorProto.INT8
    }
    return {
        node.input[1].removesuffix(".weight"): TensorProto.INT8 if node.input[0] in casts else TensorProto.UINT8
        for node in made.graph.node
        if node.op_type == "ConvInteger"
    }


def one_layer(weight: npt.NDArray[np.int8], bits: int, source: QuantParams) -> IntegerModel:
    """A convolution from `source` to a tensor of 16 bits, with these weights."""
    model = network("input", "8 bits", "conv", "16 bits, signed")
    first, conv = model.ops
    assert isinstance(conv, IntegerConv2d)
    largest = int(np.abs(weight.astype(int)).reshape(CHANNELS, -1).sum(1).max()) * source.quant_max
    shift = max(0, largest.bit_length() - 15)
    assert shift <= 9  # theorem A: 2**15 times 2**9 is 2**24
    rescale = Rescale(Multipliers(np.ones(CHANNELS, int), np.full(CHANNELS, shift)), -(2**15), 2**15 - 1)
    ops = (
        replace(first, low=source.quant_min, high=source.quant_max, scale=source.scale),
        replace(conv, weight=weight, weight_bits=bits, rescale=rescale),
    )
    return replace(model, ops=ops, formats={**model.formats, "tensor": source})


def images_at_the_ends(source: QuantParams) -> torch.Tensor:
    """Images of the smallest integers, of the largest, of both in turn, and of any."""
    low, high = source.scale * source.quant_min, source.scale * source.quant_max
    flat = torch.tensor([low, high]).reshape(2, 1, 1, 1).expand(2, CHANNELS, SIDE, SIDE)
    mixed = torch.where(torch.rand(3, CHANNELS, SIDE, SIDE) < 0.5, low, high)
    return torch.cat([flat, mixed, source.scale * 200 * torch.randn(2, CHANNELS, SIDE, SIDE)])


@pytest.mark.parametrize("act_bits", [2, 4, 7, 8])
@pytest.mark.parametrize("weight_bits", range(2, 9))
def test_every_width_at_its_ends(weight_bits: int, act_bits: int, tmp_path: Path) -> None:
    """Weights and images at the ends of their formats give equal sums, whichever kernel they take."""
    most = 2 ** (weight_bits - 1) - 1
    generator = np.random.default_rng(weight_bits)
    weight = generator.choice([-most, most], (CHANNELS, CHANNELS, 3, 3)).astype(np.int8)
    weight[0], weight[1] = most, -most
    for signed in (False, True):
        source = QuantParams(TensorFormat.of(act_bits, negative=signed), 0.01)
        model = one_layer(weight, weight_bits, source)
        made = export_onnx(model, tmp_path / "model.onnx")
        images = images_at_the_ends(source)
        expected = run(model, images).numpy()
        assert np.unique(expected).size > 10
        (got,) = ReferenceEvaluator(made).run(["logits_int32"], {"images": images.numpy()})
        assert np.array_equal(got, expected)
        for level in ("none", "all"):
            assert np.array_equal(
                load_engine("onnxruntime", tmp_path / "model.onnx", level=level)(images.numpy()), expected
            )
        fits = weight_bits <= 7 or act_bits <= 4
        assert image_types(made) == {"read": TensorProto.INT8 if fits else TensorProto.UINT8}
        assert image_types(to_onnx(model, Target.VNNI)) == {"read": TensorProto.INT8}


@pytest.mark.parametrize(("high", "fits"), [(64, True), (65, False)])
def test_the_largest_pair_that_fits(high: int, fits: bool, tmp_path: Path) -> None:
    """Stored weights of 128 and images of -128 fill int16 to its end; one more leaves it, and takes unsigned images."""
    weight = np.full((CHANNELS, CHANNELS, 3, 3), high, np.int8)
    weight[0, 0] = -64
    source = QuantParams.unsigned(8, 0.01)
    model = one_layer(weight, 8, source)
    conv = model.ops[1]
    assert isinstance(conv, IntegerConv2d)
    assert signed_pairs_fit(conv, -128, 127) is fits
    assert (2 * (high + 64) * -128 >= INT16_MIN) is fits
    made = export_onnx(model, tmp_path / "model.onnx")
    assert image_types(made)["read"] == (TensorProto.INT8 if fits else TensorProto.UINT8)
    images = images_at_the_ends(source)
    assert np.array_equal(
        load_engine("onnxruntime", tmp_path / "model.onnx")(images.numpy()), run(model, images).numpy()
    )


def test_pairs_are_compared_with_all_pairs() -> None:
    """The two largest stored weights of a channel decide, as every pair of every channel would."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        weight = generator.integers(-70, 70, (3, 2, 2, 2)).astype(np.int8)
        model = one_layer(weight, 8, QuantParams.unsigned(8, 0.01))
        conv = model.ops[1]
        assert isinstance(conv, IntegerConv2d)
        stored = weight.reshape(3, -1).astype(int) - min(0, int(weight.min()))
        sums = [
            (row[a] + row[b]) * end
            for row in stored
            for a in range(8)
            for b in range(8)
            if a != b
            for end in (-128, 127)
        ]
        assert signed_pairs_fit(conv, -128, 127) == (min(sums) >= INT16_MIN and max(sums) <= INT16_MAX)


def test_one_signed_copy_for_all_readers() -> None:
    """A tensor that several layers of 16 bits read is made signed once."""
    model, _ = integer_model(RESNET20, 32, "W4A4", residual_bits=16)
    made = to_onnx(model)
    types = image_types(made)
    narrow = [name for name, op in model.layers().items() if op.weight_bits <= 4 and name in types]
    assert len(narrow) > 8
    assert {types[name] for name in narrow} == {TensorProto.INT8}
    outputs = [name for node in made.graph.node for name in node.output]
    assert len(outputs) == len(set(outputs))
