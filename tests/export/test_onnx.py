# SPDX-License-Identifier: MIT
"""ONNX files give the reference executor's logits in ONNX Runtime, integer for integer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from torch import Tensor

from bitwright.export import Target, export_onnx
from bitwright.integer import IntegerModel, run
from export.models import RESNET20, integer_model

LEVELS = ["ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_EXTENDED", "ORT_ENABLE_ALL"]


def assert_equal_everywhere(model: IntegerModel, images: Tensor, path: Path) -> None:
    """All int32 logits are equal at every optimisation level, at batch 1 and 8."""
    export_onnx(model, path)
    expected = run(model, images).numpy()
    for level in LEVELS:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        for count in (1, len(images)):
            (got,) = session.run(["logits_int32"], {"images": images[:count].numpy()})
            assert got.dtype == np.int32
            assert np.array_equal(got, expected[:count]), (level, count)


@pytest.mark.parametrize("precision", ["W8A8", "W4A4", "W2A2", "W3A5"])
def test_resnet20(precision: str, tmp_path: Path) -> None:
    """Every bit width gives equal logits."""
    model, images = integer_model(RESNET20, 32, precision)
    assert_equal_everywhere(model, images, tmp_path / "model.onnx")


@pytest.mark.parametrize("precision", ["W8A8", "W4A4"])
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("pytorchcv:resnet18", 224),
        ("pytorchcv:mobilenetv2_w1", 224),
        ("torchvision:mobilenet_v2", 224),
        ("pytorchcv:squeezenet_v1_1", 224),
        ("pytorchcv:shufflenetv2_w1", 224),
        pytest.param("torchvision:resnet18", 224, marks=pytest.mark.slow),
        pytest.param("pytorchcv:resnet50", 224, marks=pytest.mark.slow),
        pytest.param("pytorchcv:resnet101", 224, marks=pytest.mark.slow),
        pytest.param("pytorchcv:resnet101b", 224, marks=pytest.mark.slow),
        pytest.param("pytorchcv:inceptionv3", 299, marks=pytest.mark.slow),
        pytest.param("pytorchcv:densenet121", 224, marks=pytest.mark.slow),
        pytest.param("torchvision:vgg11_bn", 224, marks=pytest.mark.slow),
        pytest.param("torchvision:googlenet", 224, marks=pytest.mark.slow),
    ],
)
def test_full_size_networks(name: str, size: int, precision: str, tmp_path: Path) -> None:
    """Networks of the zoo, at full resolution, give equal logits."""
    model, images = integer_model(name, size, precision)
    assert_equal_everywhere(model, images, tmp_path / "model.onnx")


def test_four_bit_weights_take_half_the_file(tmp_path: Path) -> None:
    """INT4 initializers make a W4A4 file a little over half of the W8A8 one, and only ai.onnx operators occur."""
    sizes = {}
    for precision in ("W8A8", "W4A4"):
        model, _ = integer_model("pytorchcv:resnet18", 224, precision)
        made = export_onnx(model, tmp_path / f"{precision}.onnx")
        assert {node.domain for node in made.graph.node} == {""}
        sizes[precision] = (tmp_path / f"{precision}.onnx").stat().st_size
    assert sizes["W4A4"] < 0.54 * sizes["W8A8"]
    assert any(tensor.data_type == onnx.TensorProto.INT4 for tensor in made.graph.initializer)


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
