# SPDX-License-Identifier: MIT
"""Files in QDQ form give the reference executor's integers in ONNX Runtime, whatever it fuses."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from bitwright.benchmark import ENGINES, load_engine
from bitwright.errors import BitwrightError, ExportError, LoweringError
from bitwright.export import Pixels, export_qdq, not_for_tensorrt, split_layers, to_onnx, to_qdq
from bitwright.integer import IntegerModel, lower, run
from bitwright.integer.ops import IntegerAvgPool2d
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from export.formats import CHANNELS, READERS, SIDE, network, pairs
from export.models import FULL_SIZE, RESNET20, graph_of, integer_model, model_of_wide_sums
from export.published import constants, near_halves
from export.tensorrt_rules import faults
from random_networks import differences, random_model


def assert_exact_everywhere(model: IntegerModel, images: torch.Tensor, path: Path) -> None:
    """All int32 logits are equal at every level, with one thread and two, at batches of one, two and three."""
    export_qdq(model, path)
    expected = run(model, images).numpy()
    for level in ENGINES["onnxruntime"].levels:
        for threads in (1, 2):
            session = load_engine("onnxruntime", path, threads=threads, level=level)
            for count in (1, 2, 3):
                got = session(images[:count].numpy())
                assert got.dtype == np.int32
                assert np.array_equal(got, expected[:count]), (level, threads, count)


@pytest.mark.parametrize(("precision", "residual_bits"), [("W8A8", 8), ("W4A4", 8), ("W8A8", 16)])
def test_resnet20(precision: str, residual_bits: int, tmp_path: Path) -> None:
    """Bytes, 4 bits and tensors of 16 bits; ONNX's own reference agrees."""
    model, images = integer_model(RESNET20, 32, precision, residual_bits)
    assert_exact_everywhere(model, images, tmp_path / "model.onnx")
    (got,) = ReferenceEvaluator(to_qdq(model)).run(["logits_int32"], {"images": images[:2].numpy()})
    assert np.array_equal(got, run(model, images[:2]).numpy())


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["W8A8", "W4A4"])
@pytest.mark.parametrize(("name", "size"), FULL_SIZE)
def test_full_size_networks(name: str, size: int, precision: str, tmp_path: Path) -> None:
    """Networks of the zoo at full resolution, with layers whose sums leave float32."""
    model, images = integer_model(name, size, precision)
    assert_exact_everywhere(model, images[:3], tmp_path / "model.onnx")


def counted(seeds: range) -> Counter[str]:
    """Random networks in ONNX Runtime: how many are exact, and how many are refused for which reason."""
    found: Counter[str] = Counter()
    for seed in seeds:
        try:
            given = random_model(seed)
            wrong = differences(given, "onnxruntime", export=export_qdq)
        except ExportError as error:
            found[str(error).partition(":")[2].partition(";")[0].strip()] += 1
            continue
        except BitwrightError:
            found["no integer model"] += 1
            continue
        assert not wrong, (seed, wrong)
        found["exact"] += 1
    return found


def test_random_networks() -> None:
    """No network of the generator gives other integers at any level, batch or number of threads; few are refused."""
    found = counted(range(8))
    assert found["exact"] >= 6, found


@pytest.mark.slow
def test_many_random_networks() -> None:
    """Three hundred more; all that is refused are pixels without an exact gain and offset."""
    found = counted(range(1000, 1300))
    assert found["exact"] >= 270, found
    assert set(found) <= {"exact", "no integer model", "no gain and offset give the integers of all pixels"}


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS)
def test_every_format_is_exact_or_refused(reader: str, tmp_path: Path) -> None:
    """Every format of up to 16 bits that an operation can read and write."""
    images = 3 * torch.randn(3, CHANNELS, SIDE, SIDE)
    exact, refused = 0, []
    for pair in pairs(reader):
        if "32 bits" in pair:
            continue
        try:
            assert_exact_everywhere(network(*pair), images, tmp_path / "model.onnx")
            exact += 1
        except ExportError as error:
            refused.append(str(error))
    assert exact >= 10
    assert all("float32 holds sums of at most 2**24" in words for words in refused)


def test_sums_beyond_float32(tmp_path: Path) -> None:
    """Layers whose sums float32 cannot hold are in two parts, logits beyond 2**24 in int32."""
    model, images = model_of_wide_sums()
    assert list(split_layers(model)) == ["output"]
    assert_exact_everywhere(model, images, tmp_path / "model.onnx")
    assert np.abs(run(model, images).numpy()).min() > 2**23


def test_wide_means_in_bytes(tmp_path: Path) -> None:
    """Means over tensors of 16 bits whose sums leave 2**24 are summed in two bytes."""
    model = network("input", "16 bits, signed", "average", "16 bits, signed")
    pool = model.ops[1]
    assert isinstance(pool, IntegerAvgPool2d)
    wide = replace(pool, kernel=(36, 36), padding=(18, 18), shape=(CHANNELS, SIDE + 1, SIDE + 1))
    model = replace(model, ops=(model.ops[0], wide))
    assert "Floor" in {node.op_type for node in to_qdq(model).graph.node}
    assert_exact_everywhere(model, 3 * torch.randn(3, CHANNELS, SIDE, SIDE), tmp_path / "model.onnx")


def test_pixels(tmp_path: Path) -> None:
    """A file that takes uint8 pixels gives the integers of the normalised images."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    pixels = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    export_qdq(model, tmp_path / "model.onnx", pixels=pixels)
    images = torch.randint(0, 256, (3, 3, 32, 32), dtype=torch.uint8)
    got = load_engine("onnxruntime", tmp_path / "model.onnx")(images.numpy())
    assert np.array_equal(got, run(model, pixels.normalise(images)).numpy())


def test_float64_is_refused() -> None:
    """Multipliers of 31 bits need float64, which engines that read QDQ lack."""
    accumulators, multipliers = near_halves(3)
    model = constants(accumulators.astype(np.int32), multipliers)
    with pytest.raises(ExportError, match="the QDQ form computes in float32, and no float32 number"):
        to_qdq(model)


def test_only_scales_of_one_but_in_additions() -> None:
    """No engine has scales to multiply with one another: all are 1, but those of the terms of additions, which are exact."""
    model, _ = integer_model(RESNET20, 32, "W8A8")
    made = to_qdq(model)
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    others = [
        node.output[0]
        for node in made.graph.node
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and (stored[node.input[1]] != 1).any()
    ]
    assert others
    assert all(".term" in name for name in others)


def test_what_a_file_says_of_other_engines() -> None:
    """Files say whether TensorRT may read them, and that OpenVINO computes something else."""
    model, _ = integer_model(RESNET20, 32, "W8A8")
    said = {entry.key: entry.value for entry in to_qdq(model).metadata_props}
    unfit = not_for_tensorrt(model)
    assert unfit
    assert f"not for it: {len(unfit)} tensors need uint8, first {unfit[0]}" in said["tensorrt"]
    assert "export with --engine openvino" in said["openvino"]


@cache
def tensorrt_model(name: str, size: int, precision: str, residual_bits: int) -> tuple[IntegerModel, torch.Tensor]:
    """A network quantized for TensorRT."""
    graph, images = graph_of(name, size)
    uniform = Scheme.uniform(graph.layers, Precision.parse(precision))
    scheme = replace(uniform, residual_bits=residual_bits, deploy="tensorrt")
    return lower(calibrate(quantize(graph, scheme), [images], "minmax")), images


@pytest.mark.parametrize(
    ("name", "size", "precision", "residual_bits"),
    [
        (RESNET20, 32, "W8A8", 8),
        (RESNET20, 32, "W4A4", 16),
        pytest.param("torchvision:shufflenet_v2_x1_0", 64, "W8A8", 8, marks=pytest.mark.slow),
        pytest.param("torchvision:mobilenet_v2", 64, "W4A8", 8, marks=pytest.mark.slow),
        pytest.param("torchvision:squeezenet1_1", 64, "W8A7", 8, marks=pytest.mark.slow),
    ],
)
def test_tensorrt(name: str, size: int, precision: str, residual_bits: int, tmp_path: Path) -> None:
    """Quantized for TensorRT, a file obeys all that its documentation asks for, and is exact in ONNX Runtime all the same."""
    model, images = tensorrt_model(name, size, precision, residual_bits)
    assert not_for_tensorrt(model) == []
    made = to_qdq(model)
    assert faults(made) == []
    assert "int8 with zero point 0" in {entry.key: entry.value for entry in made.metadata_props}["tensorrt"]
    assert_exact_everywhere(model, images, tmp_path / "model.onnx")


def test_the_rules_find_what_breaks_them() -> None:
    """Other models, and the default form, break them."""
    model, _ = integer_model(RESNET20, 32, "W8A8")
    found = faults(to_qdq(model))
    assert sum("zero points are to be int8" in words for words in found) >= len(not_for_tensorrt(model))
    assert any("QLinearConv is not read" in words for words in faults(to_onnx(model)))
    made = to_qdq(tensorrt_model(RESNET20, 32, "W8A8", 8)[0])
    weights = next(node for node in made.graph.node if node.output[0] == "output.weight")
    weights.attribute[0].i = 0
    assert faults(made) == ["output.sums: weights are to have a scale for each output channel"]


def test_random_networks_for_tensorrt() -> None:
    """Networks of every operation, quantized for TensorRT, have no other tensors of 8 bits than int8 ones."""
    made = 0
    for seed in range(20, 28):
        draw = np.random.default_rng(seed)
        try:
            graph = random_model(seed).graph
            layers = {name: Precision(8, int(draw.integers(6, 9))) for name in graph.layers}
            model = quantize(graph, Scheme("tensorrt", layers, int(draw.choice([8, 16])), "tensorrt"))
            lowered = lower(calibrate(model, [torch.randn(4, *graph.input_shape)], "minmax"))
        except LoweringError:
            continue
        made += 1
        assert faults(to_qdq(lowered)) == []
    assert made >= 5


def test_openvino_computes_something_else(tmp_path: Path) -> None:
    """Why files say that they are not for OpenVINO."""
    openvino = pytest.importorskip("openvino", reason="the extra 'openvino' is not installed")
    model, images = integer_model(RESNET20, 32, "W4A4")
    export_qdq(model, tmp_path / "model.onnx")
    options = {"INFERENCE_PRECISION_HINT": "f32", "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0}
    compiled = openvino.Core().compile_model(str(tmp_path / "model.onnx"), "CPU", options)
    got = compiled(images.numpy())["logits_int32"]
    assert not np.array_equal(got, run(model, images).numpy())
