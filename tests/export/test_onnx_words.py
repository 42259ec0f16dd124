# SPDX-License-Identifier: MIT
"""Tensors of 9 to 16 bits in ONNX files: stored in 16 bits, rounded by one operator, behind a max pool that alone reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto
from onnx.reference import ReferenceEvaluator

from bitwright.benchmark import environment, load_engine
from bitwright.export import Target, export_onnx, to_onnx
from bitwright.graph.nodes import MaxPool2d, Node
from bitwright.integer import IntegerModel, Multipliers, QuantParams, run
from bitwright.integer.ops import IntegerRequantize, Quantize, Rescale
from bitwright.integer.outputs import single_output
from bitwright.integer.proof.certificate import certify_requantize
from bitwright.quantizer.formats import TensorFormat
from bitwright.scheme import Scheme
from export.one_layer import convolution

LEVELS = ("none", "basic", "extended", "all")


def assert_equal(model: IntegerModel, images: torch.Tensor, target: Target, path: Path) -> onnx.ModelProto:
    """All integers, in ONNX's own evaluator and, where this CPU is one of the target, at every level of ONNX Runtime."""
    made = export_onnx(model, path, target)
    expected = run(model, images).numpy()
    assert np.unique(expected).size > 10
    for level in LEVELS if target in (Target.ANY, environment().target) else ():
        assert np.array_equal(load_engine("onnxruntime", path, level=level)(images.numpy()), expected), level
    (got,) = ReferenceEvaluator(made).run(["logits_int32"], {"images": images.numpy()})
    assert np.array_equal(got, expected)
    return made


def rescaled_words(window: TensorFormat, low: int, high: int) -> IntegerModel:
    """Integers of 16 bits at another scale, in a format of 9 to 16 bits, clamped to [low, high]."""
    source, result = QuantParams(TensorFormat.symmetric(16), 1.0), QuantParams(window, 1.0)
    shape = (1, 64, 64)
    limits = {"low": source.quant_min, "high": source.quant_max}
    found = certify_requantize(1.0625, source.quant_min, source.quant_max, low, high).multipliers
    ops = (
        Quantize(name="input", inputs=(), shape=shape, scale=1.0, **limits),
        IntegerRequantize(name="words", inputs=("input",), shape=shape, rescale=Rescale(found, low, high)),
    )
    formats = {"input": source, "words": result}
    return IntegerModel("words", Scheme("none", {}), ops, formats, single_output("words", np.array([1.0])))


@pytest.mark.parametrize(
    ("window", "low", "high", "kind"),
    [
        (TensorFormat.symmetric(16), -(2**15), 2**15 - 1, TensorProto.INT16),
        (TensorFormat.unsigned(16), 0, 2**16 - 1, TensorProto.UINT16),
        (TensorFormat.unsigned(16), 100, 40_000, TensorProto.UINT16),
        (TensorFormat.symmetric(12), -(2**11), 2**11 - 1, TensorProto.INT16),
        (TensorFormat.unsigned(9), 0, 2**9 - 1, TensorProto.INT16),
    ],
)
def test_every_integer(window: TensorFormat, low: int, high: int, kind: int, tmp_path: Path) -> None:
    """All integers of 16 bits, halves among the results, are rounded and clamped as the model does."""
    model = rescaled_words(window, low, high)
    images = torch.arange(-(2**15), 2**15).float().reshape(-1, 1, 64, 64)
    made = assert_equal(model, images, Target.ANY, tmp_path / "model.onnx")
    zeros = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
    rounded = [node for node in made.graph.node if node.op_type == "QuantizeLinear" and node.output == ["words"]]
    assert [zeros[node.input[2]] for node in rounded] == [kind]
    assert not [node for node in made.graph.node if node.op_type == "Round"]


def pooled(channels: int, bits: int, signed: bool, kernel: int = 3) -> IntegerModel:
    """A convolution to 16 bits, its maxima, and nothing else that reads it."""
    generator = np.random.default_rng(channels + bits)
    weight = generator.integers(-127, 128, (18, channels, kernel, kernel)).astype(np.int8)
    weight[0], weight[1] = 127, -127
    bias = generator.integers(-40_000, 40_000, 18).astype(np.int32)
    source = QuantParams(TensorFormat.of(bits, negative=signed), 1.0)
    result = QuantParams(TensorFormat.of(16, negative=signed), 1.0)
    largest = int(np.abs(weight.astype(int)).reshape(18, -1).sum(1).max()) * source.quant_max
    # Theorem A: results of 16 bits times 2**8 are 2**24.
    ratio = Multipliers(max(1, (3 << 23) // largest) + np.arange(18) % 3, np.full(18, 8))
    pad = kernel // 2, kernel // 2
    alone = convolution(weight, bias, source, (9, 11), padding=pad)
    layer = replace(alone.ops[1], rescale=Rescale(ratio, result.quant_min, result.quant_max))
    pool: Node = MaxPool2d(
        name="pool", inputs=("layer",), shape=(18, 5, 6), place="", kernel=(3, 3), stride=(2, 2), padding=(1, 1),
        dilation=(1, 1), ceil_mode=False,
    )  # fmt: skip
    formats = {**alone.formats, "layer": result, "pool": result}
    return replace(alone, ops=(alone.ops[0], layer, pool), formats=formats, outputs=single_output("pool"))


def images_of(model: IntegerModel) -> torch.Tensor:
    """Images of the smallest integers, of the largest, of both in turn, and of any."""
    params, shape = model.formats["input"], model.input_shape
    generator = np.random.default_rng(0)
    ends = generator.choice([params.quant_min, params.quant_max], (4, *shape))
    noise = generator.integers(params.quant_min, params.quant_max + 1, (6, *shape))
    flat = np.stack([np.full(shape, end) for end in params.ends])
    return torch.from_numpy(np.concatenate([flat, ends, noise]).astype(np.float32))


@pytest.mark.parametrize("target", [Target.ANY, Target.VNNI])
@pytest.mark.parametrize(
    ("channels", "bits", "signed"), [(3, 8, False), (3, 8, True), (1, 2, False), (4, 8, False), (5, 8, True)]
)
def test_maxima_come_before_rounding(channels: int, bits: int, signed: bool, target: Target, tmp_path: Path) -> None:
    """The maxima of what a layer rounds are what it rounds of the maxima: at the ends, at noise, with and without signs."""
    model = pooled(channels, bits, signed)
    made = assert_equal(model, images_of(model), target, tmp_path / "model.onnx")
    types = [node.op_type for node in made.graph.node]
    assert types.index("MaxPool") < types.index("QuantizeLinear", types.index("MaxPool"))
    assert ("Conv" in types) == (target is Target.VNNI and channels <= 4)
    assert ("ConvInteger" in types) != ("Conv" in types)


def test_sums_beyond_float32_stay_integers(tmp_path: Path) -> None:
    """A layer whose sums can exceed 2**24 is no float32 convolution, however few its channels."""
    model = pooled(4, 8, False, kernel=13)
    assert "Conv" not in [node.op_type for node in to_onnx(model, Target.VNNI).graph.node]
    assert_equal(model, images_of(model), Target.VNNI, tmp_path / "model.onnx")


def test_a_layer_that_others_read_is_rounded_itself(tmp_path: Path) -> None:
    """Where the layer leaves the network, its maxima are those of its integers."""
    model = pooled(3, 8, False)
    both = replace(model, outputs={"pool": model.outputs["logits"], "layer": single_output("layer")["logits"]})
    types = [node.op_type for node in to_onnx(both, Target.VNNI).graph.node]
    assert types.index("QuantizeLinear", types.index("ConvInteger")) < types.index("MaxPool")
