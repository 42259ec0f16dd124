# SPDX-License-Identifier: MIT
"""ONNX files give the reference executor's logits in ONNX Runtime, integer for integer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from bitwright.benchmark import compare, load_engine
from bitwright.data import load_data
from bitwright.data.fit import fit
from bitwright.errors import ExportError
from bitwright.export import Pixels, Target, export_onnx, to_onnx
from bitwright.export.onnx.builder import OnnxBuilder
from bitwright.export.onnx.exporter import add_to_onnx
from bitwright.integer import QuantParams, run
from bitwright.integer.ops import IntegerAvgPool2d
from export.equality import assert_equal
from export.models import ARCHITECTURES, FULL_SIZE, FURTHER, RESNET20, integer_model, of_scale

LEVELS = ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]


@pytest.mark.parametrize("precision", ["W8A8", "W4A4", "W2A2", "W3A5"])
def test_resnet20(precision: str, tmp_path: Path) -> None:
    """Every bit width gives equal logits."""
    model, images = integer_model(RESNET20, 32, precision)
    assert_equal("onnxruntime", model, images, tmp_path / "model.onnx")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_architectures(name: str, tmp_path: Path) -> None:
    """Linear bottlenecks, channel shuffles, concatenations: each has its exact form."""
    model, images = integer_model(name, 64, "W4A4")
    assert_equal("onnxruntime", model, images, tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["W8A8", "W4A4"])
@pytest.mark.parametrize(
    ("name", "size"),
    [
        *FULL_SIZE,
        *FURTHER,
        ("pytorchcv:resnet101", 224),
        ("pytorchcv:resnet101b", 224),
        ("pytorchcv:shufflenetv2_w1", 224),
        ("pytorchcv:squeezenet_v1_1", 224),
        ("torchvision:resnet18", 224),
        ("torchvision:mobilenet_v2", 224),
        ("torchvision:vgg11_bn", 224),
    ],
)
def test_full_size_networks(name: str, size: int, precision: str, tmp_path: Path) -> None:
    """Networks of the zoo, at full resolution, give equal logits."""
    model, images = integer_model(name, size, precision)
    assert_equal("onnxruntime", model, images, tmp_path / "model.onnx")


def test_four_bit_weights_are_packed(tmp_path: Path) -> None:
    """Every weight of a 4-bit layer takes half a byte in the file, and only ai.onnx operators occur."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    made = export_onnx(model, tmp_path / "model.onnx")
    assert {node.domain for node in made.graph.node} == {""}
    stored = {tensor.name: tensor for tensor in made.graph.initializer}
    narrow = {name: op for name, op in model.layers().items() if op.weight_bits <= 4}
    assert len(narrow) == len(model.layers()) - 2
    for name, op in narrow.items():
        tensor = stored[f"{name}.weight_int4"]
        assert tensor.data_type == onnx.TensorProto.INT4
        assert len(tensor.raw_data) == (op.weight.size + 1) // 2
        assert np.array_equal(numpy_helper.to_array(tensor).astype(np.int8), op.weight)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "most"), [("pytorchcv:resnet18", 0.53), ("pytorchcv:resnet50", 0.55)])
def test_four_bit_weights_take_half_the_file(name: str, most: float, tmp_path: Path) -> None:
    """INT4 initializers make a W4A4 file half of the W8A8 one, and 8-bit ends the rest: 0.540 of ResNet50's weights alone."""
    sizes = {}
    for precision in ("W8A8", "W4A4"):
        export_onnx(integer_model(name, 224, precision)[0], tmp_path / f"{precision}.onnx")
        sizes[precision] = (tmp_path / f"{precision}.onnx").stat().st_size
    assert sizes["W4A4"] <= most * sizes["W8A8"]


def test_weights_that_could_saturate_are_unsigned(tmp_path: Path) -> None:
    """For any CPU, exactly the layers whose products can exceed 16 bits in pairs hold uint8; with dot products, none does."""
    model, _ = integer_model(RESNET20, 32, "W4A8")
    wide = {name for name, op in model.layers().items() if 2 * 255 * int(np.abs(op.weight).max()) > 2**15 - 1}
    assert wide == {"features.init_block.conv", "output"}
    for target, expected in ((Target.ANY, wide), (Target.VNNI, set())):
        made = export_onnx(model, tmp_path / "model.onnx", target)
        types = {tensor.name: tensor.data_type for tensor in made.graph.initializer}
        assert {name for name in model.layers() if types.get(f"{name}.weight") == onnx.TensorProto.UINT8} == expected
    assert "2 layers can saturate" in {entry.key: entry.value for entry in made.metadata_props}["saturation"]


@pytest.mark.parametrize("precision", ["W8A8", "W4A4"])
def test_residuals_of_16_bits(precision: str, tmp_path: Path) -> None:
    """Tensors of 16 bits are exact too, from the layers that write them to the pooling that reads them."""
    model, images = integer_model(RESNET20, 32, precision, residual_bits=16)
    assert sum(params.bit_width == 16 for params in model.formats.values()) >= 18
    assert_equal("onnxruntime", model, images, tmp_path / "model.onnx")


def test_sums_over_a_wide_stream_must_fit_float32() -> None:
    """An average over too large a window of 16-bit values is refused, with its place."""
    model, _ = integer_model(RESNET20, 32, "W8A8")
    pool = next(op for op in model if isinstance(op, IntegerAvgPool2d))
    wide = replace(model, formats={**model.formats, pool.inputs[0]: QuantParams.unsigned(16, 0.01)})
    add_to_onnx(pool, OnnxBuilder(model=wide))
    with pytest.raises(ExportError, match=rf"2\*\*24 at '{pool.name}', got up to .* Use residual_bits: 8"):
        add_to_onnx(replace(pool, kernel=(32, 32)), OnnxBuilder(model=wide))


@pytest.mark.parametrize(("precision", "residual_bits"), [("W8A8", 8), ("W4A4", 8), ("W8A8", 16)])
def test_onnx_reference(precision: str, residual_bits: int) -> None:
    """ONNX's own reference implementation gives the same integers: the file means what the standard says."""
    model, images = integer_model(RESNET20, 32, precision, residual_bits)
    (got,) = ReferenceEvaluator(to_onnx(model)).run(["logits_int32"], {"images": images[:2].numpy()})
    assert got.dtype == np.int32
    assert np.array_equal(got, run(model, images[:2]).numpy())


@pytest.mark.parametrize("nodes", [["Cast", "Mul", "Add", "QuantizeLinear"], ["Cast", "Add", "Gather"]])
def test_images_of_pixels(nodes: list[str], tmp_path: Path) -> None:
    """A file that takes uint8 pixels gives the integers of the normalised images, by an affine form or by a table."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    pixels = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    if "Gather" in nodes:  # a scale of two pixel values, around a pixel value, has only ties: they go to even
        model = of_scale(model, 2 / 255)
        pixels = Pixels((128 / 255,) * 3, (1.0,) * 3)
    made = export_onnx(model, tmp_path / "model.onnx", pixels=pixels)
    assert [node.op_type for node in made.graph.node[: len(nodes)]] == nodes
    assert made.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    (result,) = compare(
        model, {"onnxruntime": tmp_path / "model.onnx"}, [images], {"onnxruntime": ["all"]}, pixels=pixels
    )
    assert result.exact


def test_pixels_of_mnist(tmp_path: Path) -> None:
    """Real digits as they are stored, against the images that training sees."""
    data = load_data("mnist-5k", image_size=32, channels=3)
    stored = [fit(data.test.pixels[index : index + 100], 32).expand(-1, 3, -1, -1) for index in (0, 100)]
    model, _ = integer_model(RESNET20, 32, "W8A8")
    pixels = Pixels(data.mean, data.std)
    export_onnx(model, tmp_path / "model.onnx", pixels=pixels)
    predict = load_engine("onnxruntime", tmp_path / "model.onnx")
    for index, digits in zip((0, 100), stored, strict=True):
        images, _ = data.test.read(range(index, index + 100))
        assert torch.equal(pixels.normalise(digits), images)
        assert np.array_equal(predict(digits.numpy()), run(model, images).numpy())
