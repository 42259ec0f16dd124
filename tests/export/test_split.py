# SPDX-License-Identifier: MIT
"""Sums beyond float32, in two parts: each is exact, their float32 sum is the accumulator rounded once, and logits stay whole."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.benchmark import compare
from bitwright.errors import ExportError
from bitwright.export import export_qonnx, split_layers, to_qonnx
from bitwright.export.onnx.split import split_at, split_integers, split_layer
from bitwright.integer import IntegerModel, QuantParams, run
from bitwright.integer.ops import IntegerAvgPool2d, IntegerConv2d, IntegerLinear, Rescale
from bitwright.integer.proof.bounds import FLOAT32_EXACT, accumulator_bounds
from bitwright.integer.proof.certificate import certify
from export.one_layer import extremes, network

FEW = QuantParams.unsigned(2, 1.0)
BYTES = (QuantParams.unsigned(8, 1.0), QuantParams.symmetric(8, 1.0))


def nearest_float32(value: int) -> int:
    """The integer that float32 makes of another: 24 significant bits, halves to even."""
    excess = max(abs(value).bit_length() - 24, 0)
    return round(Fraction(value, 1 << excess)) << excess


def saturated(shape: tuple[int, ...], bits: int, seed: int = 0) -> npt.NDArray[np.int8]:
    """Weights at the ends of their range: the first output's at the upper, but for one that is 1; the second's at the lower."""
    generator, most = np.random.default_rng(seed), 2 ** (bits - 1) - 1
    weight = generator.choice(np.array([-most, most, most], dtype=np.int8), shape)
    weight[0], weight[1] = most, -most
    weight[0].flat[0] = 1
    weight[-1] = generator.integers(-most, most + 1, shape[1:])
    return weight


def convolution(channels: int, kernel: int, groups: int, bits: int, source: QuantParams, seed: int = 0) -> IntegerModel:
    """A convolution with saturated weights whose outputs of 2 bits have steps on both sides of 2**24."""
    weight = saturated((4 * groups, channels // groups, kernel, kernel), bits, seed)
    bias = np.random.default_rng(seed).integers(-(2**20), 2**20, len(weight)).astype(np.int32) | 1
    low, high = accumulator_bounds(weight, bias, source)
    multipliers = certify(2.6 / high, low, high, 0, 3).multipliers
    op = IntegerConv2d(
        name="layer", inputs=("input",), shape=(len(weight), 1, 1), place="", rescale=Rescale(multipliers, 0, 3),
        weight=weight, weight_bits=bits, bias=bias, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=groups,
    )  # fmt: skip
    return network(op, source, FEW, (channels, kernel, kernel))


def classifier(features: int, source: QuantParams, bias: int = 0) -> IntegerModel:
    """A matrix product with saturated weights whose sums are the logits."""
    weight = saturated((5, features), 8)
    op = IntegerLinear(
        name="layer", inputs=("flat",), shape=(5,), place="", rescale=None, weight=weight, weight_bits=8,
        bias=np.arange(5, dtype=np.int32) + bias,
    )  # fmt: skip
    return network(op, source, source, (features, 1, 1))


def next_to_steps(model: IntegerModel) -> npt.NDArray[np.float32]:
    """Images with which the first output's accumulator is the first of each result, one less, or one more."""
    layer, images = model.ops[-1], []
    assert isinstance(layer, IntegerConv2d)
    assert layer.rescale is not None
    b, c = (int(values[0]) for values in (layer.rescale.multipliers.multiplier, layer.rescale.multipliers.shift))
    most, count = int(layer.weight[0].max()), layer.weight[0].size - 1
    for result in (1, 2, 3):
        step = ceil(Fraction(2 * result - 1, 2) * Fraction(1 << c, b))
        for target in (step - 1, step, step + 1):
            total, ones = divmod(target - int(layer.bias[0]), most)
            each, rest = divmod(total, count)
            image = np.zeros(model.input_shape)
            image.flat[: count + 1] = [ones, *[each + 1] * rest, *[each] * (count - rest)]
            images.append(image)
    return np.stack(images).astype(np.float32)


def exact_sums(model: IntegerModel, images: npt.NDArray[np.float32]) -> npt.NDArray[np.int64]:
    """The accumulators in int64, output by output; the kernels here cover the images."""
    (layer,) = model.layers().values()
    groups = getattr(layer, "groups", 1)
    rows = layer.weight.reshape(groups, len(layer.weight) // groups, -1).astype(np.int64)
    values = images.reshape(len(images), groups, -1).astype(np.int64)
    return np.einsum("bgi,goi->bgo", values, rows).reshape(len(images), -1) + layer.bias


def tensors(path: Path, images: npt.NDArray[np.float32]) -> dict[str, npt.NDArray[Any]]:
    """All tensors as the qonnx package computes them."""
    modelwrapper = pytest.importorskip("qonnx.core.modelwrapper", reason="the extra 'qonnx' is not installed")
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    graph = modelwrapper.ModelWrapper(str(path))
    graph.set_tensor_shape("images", list(images.shape))
    graph.set_tensor_shape("logits_int32", [len(images), *graph.get_tensor_shape("logits_int32")[1:]])
    return dict(execute_onnx(graph.transform(InferShapes()), {"images": images}, return_full_exec_context=True))


@pytest.mark.parametrize("shift", range(1, 8))
def test_parts_are_the_integer(shift: int) -> None:
    """Every int8 is made of its parts, the lower one within `shift` bits, as division with the nearest rest says."""
    values = np.arange(-128, 128).astype(np.int8)
    high, low = split_integers(values, shift)
    step = 1 << shift
    for value, upper, lower in zip(values.tolist(), high.tolist(), low.tolist(), strict=True):
        expected = min(range(-step // 2, step // 2), key=lambda rest: (value - rest) % step)
        assert (lower, upper) == (expected, (value - expected) // step)
        assert step * upper + lower == value


@given(st.integers(-(2**24), 2**24), st.integers(-(2**24), 2**24), st.integers(1, 7))
def test_two_exact_sums_are_added_with_one_rounding(high: int, low: int, shift: int) -> None:
    """In float32, the product is exact and the sum that of the integers, rounded once."""
    joined = np.float32(high) * np.float32(1 << shift) + np.float32(low)
    assert int(joined) == nearest_float32((high << shift) + low)


@given(st.integers(2, 8), st.integers(0, 2**32 - 1))
def test_cuts_are_the_layer(bits: int, seed: int) -> None:
    """At every shift, weights and bias are those of the parts, which their formats hold."""
    generator = np.random.default_rng(seed)
    weight = generator.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (3, 4)).astype(np.int8)
    bias = generator.integers(-(2**31), 2**31, 3).astype(np.int32)
    layer = replace(classifier(4, BYTES[0]).layers()["layer"], weight=weight, weight_bits=bits, bias=bias)
    for shift in range(1, bits):
        cut = split_at(layer, shift, 0)
        for name in ("weight", "bias"):
            high, low = (getattr(part, name).astype(np.int64) for part in (cut.high, cut.low))
            assert np.array_equal((high << shift) + low, getattr(layer, name))
        for part in (cut.high, cut.low):
            assert -(2 ** (part.bits - 1)) <= part.weight.min()
            assert part.weight.max() < 2 ** (part.bits - 1)


CASES = [(700, 1, 1, 8), (1300, 1, 2, 8), (80, 3, 1, 8), (9900, 1, 1, 4)]


@pytest.mark.filterwarnings("ignore")  # the package's own
@pytest.mark.parametrize("source", BYTES, ids=["unsigned", "signed"])
@pytest.mark.parametrize(("channels", "kernel", "groups", "bits"), CASES)
def test_convolutions(channels: int, kernel: int, groups: int, bits: int, source: QuantParams, tmp_path: Path) -> None:
    """In the qonnx package, the parts' sums are exact, accumulators beyond 2**24 rounded once, and the results equal."""
    if source.format.negative:  # half of the magnitude
        channels *= 2
    model = convolution(channels, kernel, groups, bits, source)
    assert list(split_layers(model)) == ["layer"]
    images = np.concatenate([extremes(model), next_to_steps(model)])
    export_qonnx(model, tmp_path / "model.onnx")
    found = tensors(tmp_path / "model.onnx", images)
    sums = exact_sums(model, images)
    assert np.abs(sums).max() > FLOAT32_EXACT
    assert ((np.abs(sums) > FLOAT32_EXACT) & (sums % 2 == 1)).any()  # halfway between two float32 numbers
    rounded = [nearest_float32(value) for value in sums.ravel().tolist()]
    assert found["layer.accumulator"].astype(np.int64).ravel().tolist() == rounded
    cut = split_layers(model)["layer"]
    for part, digit in (("high", cut.high), ("low", cut.low)):
        of_digit = replace(model.layers()["layer"], weight=digit.weight, bias=digit.bias)
        expected = exact_sums(replace(model, ops=(*model.ops[:-1], of_digit)), images)
        assert np.array_equal(found[f"layer.{part}.accumulator"].reshape(expected.shape), expected)
    (result,) = compare(model, {"qonnx": tmp_path / "model.onnx"}, [torch.from_numpy(images)])
    assert result.exact
    assert result.logits == sums.size
    steps = run(model, torch.from_numpy(images[-9:]))[:, 0].flatten().tolist()
    assert steps == [0, 1, 1, 1, 2, 2, 2, 3, 3]
    assert sums[-2, 0] > FLOAT32_EXACT


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", BYTES, ids=["unsigned", "signed"])
@pytest.mark.parametrize(("features", "bias"), [(1100, 0), (1100, -1_000_001), (10, 2**27 + 1), (10, -(2**30) - 1)])
def test_logits(features: int, bias: int, source: QuantParams, tmp_path: Path) -> None:
    """Logits beyond 2**24 leave the network as int32, every one the very sum."""
    model = classifier(features, source, bias)
    images = extremes(model)
    made = export_qonnx(model, tmp_path / "model.onnx")
    assert made.graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.INT32
    logits = tensors(tmp_path / "model.onnx", images)["logits_int32"]
    sums = exact_sums(model, images)
    assert logits.dtype == np.int32
    assert ((np.abs(sums) > FLOAT32_EXACT) & (sums % 2 == 1)).any()
    assert np.array_equal(logits, sums)
    (result,) = compare(model, {"qonnx": tmp_path / "model.onnx"}, [torch.from_numpy(images)])
    assert result.exact


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "source", [QuantParams.unsigned(16, 1.0), QuantParams.symmetric(16, 1.0)], ids=["unsigned", "signed"]
)
@pytest.mark.parametrize("leaves", [False, True])
def test_averages_over_16_bits(source: QuantParams, leaves: bool, tmp_path: Path) -> None:
    """Sums over large windows of a tensor of 16 bits are those of its two bytes, joined with one rounding."""
    side, area = 24, 24 * 24
    low, high = area * source.quant_min, area * source.quant_max
    rescale = None if leaves else Rescale(certify([7.2 / high], [low], [high], -8, 7).multipliers, -8, 7)
    op = IntegerAvgPool2d(
        name="layer", inputs=("input",), shape=(3, 1, 1), place="", rescale=rescale,
        kernel=(side, side), stride=(1, 1), padding=(0, 0),
    )  # fmt: skip
    model = network(op, source, QuantParams.symmetric(4, 1.0), (3, side, side))
    images = np.random.default_rng(0).integers(source.quant_min, source.quant_max + 1, (12, 3, side, side))
    for index, end in enumerate((source.quant_max, source.quant_min, 255, 256, -1, -256, -257)):
        images[index] = np.clip(end, source.quant_min, source.quant_max)
    images[7:10] = np.clip(images[7:10] | 0x7C00, source.quant_min, source.quant_max)
    stored = images.astype(np.float32)
    made = export_qonnx(model, tmp_path / "model.onnx")
    (said,) = (entry.value for entry in made.metadata_props if entry.key == "sums")
    assert said.endswith("; in two bytes of what they average, since the whole can exceed 2**24: layer")
    found = tensors(tmp_path / "model.onnx", stored)
    sums = images.sum((2, 3)).ravel().tolist()
    assert max(sums) > FLOAT32_EXACT
    assert found["layer.high"].astype(np.int64).ravel().tolist() == (images // 256).ravel().tolist()
    assert found["layer.low"].astype(np.int64).ravel().tolist() == (images % 256).ravel().tolist()
    accumulators = found["layer" if leaves else "layer.accumulator"].astype(np.int64).ravel().tolist()
    assert accumulators == (sums if leaves else [nearest_float32(value) for value in sums])
    (result,) = compare(model, {"qonnx": tmp_path / "model.onnx"}, [torch.from_numpy(stored)])
    assert result.exact


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("make", [lambda: convolution(700, 1, 1, 8, BYTES[0]), lambda: classifier(700, BYTES[0])])
def test_transformations_of_the_package(make: Any, tmp_path: Path) -> None:
    """Cleaned up and with its data types inferred, as flows do first, the graph gives the same integers."""
    pytest.importorskip("qonnx", reason="the extra 'qonnx' is not installed")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_datatypes import InferDataTypes
    from qonnx.util.cleanup import cleanup_model

    model = make()
    images = extremes(model)
    export_qonnx(model, tmp_path / "model.onnx")
    graph = cleanup_model(ModelWrapper(str(tmp_path / "model.onnx")), override_inpsize=len(images))
    graph = graph.transform(InferDataTypes())
    named = {graph.get_tensor_datatype(node.output[0]).name for node in graph.get_nodes_by_op_type("Quant")}
    assert {"INT4", "INT5"} <= named
    (got,) = execute_onnx(graph, {graph.graph.input[0].name: images}).values()
    assert np.array_equal(got, run(model, torch.from_numpy(images)).numpy())


def test_files_say_so() -> None:
    """Quant nodes state the bits of both parts, the metadata which layers are cut, how, and why."""
    made = to_qonnx(convolution(700, 1, 1, 8, BYTES[0]))
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    bits = {node.output[0]: int(values[node.input[3]]) for node in made.graph.node if node.op_type == "Quant"}
    assert bits == {"input": 8, "layer.high.weight": 5, "layer.low.weight": 4, "layer": 2}
    facts = {entry.key: entry.value for entry in made.metadata_props}
    assert facts["sums"].endswith("; in two parts of their weights, since the whole can exceed 2**24: layer")
    (entry,) = json.loads(facts["split_layers"]).values()
    assert entry.pop("largest_sum") > FLOAT32_EXACT
    assert entry == {"shift": 4, "high_bits": 5, "low_bits": 4}


def test_what_float32_holds_stays_whole() -> None:
    """At 2**24 nothing is cut; one more, and it is."""
    for bias, cut in ((2**24 - 10 * 127 * 255, False), (2**24 - 10 * 127 * 255 + 1, True)):
        model = classifier(10, BYTES[0])
        layer = replace(model.layers()["layer"], weight=np.full((5, 10), 127, np.int8), bias=np.full(5, bias, np.int32))
        assert (split_layer(layer, BYTES[0]) is not None) == cut


def test_what_two_parts_cannot_hold_is_refused() -> None:
    """A layer with too many inputs for two parts is refused by name, as is an average over too large a window."""
    with pytest.raises(ExportError, match=r"at most 2\*\*24, but those of 'layer' can reach 647\d+, and .* two parts"):
        to_qonnx(classifier(20_000, BYTES[0]))
    op = IntegerAvgPool2d(
        name="layer", inputs=("input",), shape=(1, 1, 1), place="", rescale=None,
        kernel=(257, 257), stride=(1, 1), padding=(0, 0),
    )  # fmt: skip
    for source in (BYTES[0], QuantParams.unsigned(14, 1.0)):
        with pytest.raises(ExportError, match=r"those of 'layer' can reach \d+ over a window of 257 x 257"):
            to_qonnx(network(op, source, source, (1, 257, 257)))
