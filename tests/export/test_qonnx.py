# SPDX-License-Identifier: MIT
"""QONNX files give the reference executor's integers in the qonnx package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from bitwright.benchmark import compare
from bitwright.export import Pixels, export_qonnx, split_layers, to_qonnx
from bitwright.integer.proof.bounds import FLOAT32_EXACT, accumulator_bounds
from export.models import FULL_SIZE, RESNET20, integer_model

pytest.importorskip("qonnx", reason="the extra 'qonnx' is not installed")


@pytest.mark.filterwarnings("ignore")  # the package's own
@pytest.mark.parametrize(
    ("precision", "residual_bits"),
    [
        ("W8A8", 8),
        pytest.param("W4A4", 8, marks=pytest.mark.slow),
        pytest.param("W2A2", 8, marks=pytest.mark.slow),
        ("W4A4", 16),
    ],
)
def test_resnet20(precision: str, residual_bits: int, tmp_path: Path) -> None:
    """Executed by the qonnx package, every logit is equal."""
    model, images = integer_model(RESNET20, 32, precision, residual_bits)
    export_qonnx(model, tmp_path / "model.onnx")
    (result,) = compare(model, {"qonnx": tmp_path / "model.onnx"}, [images[:4]])
    assert result.exact
    assert result.logits == 40


WIDE_SUMS = {
    ("pytorchcv:resnet18", "W8A8"): "features.stage3.unit1.body.conv2.conv",
    ("pytorchcv:resnet50", "W8A8"): "features.stage3.unit1.body.conv2.conv",
    ("pytorchcv:resnet50", "W4A4"): "output",
    ("pytorchcv:inceptionv3", "W8A8"): "features.stage2.unit1.branches.branch1.conv_list.conv1.conv",
    ("pytorchcv:inceptionv3", "W4A4"): "output.fc",
}
"""Where, with these weights, a layer's sums leave what float32 holds: it is in two parts."""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("precision", ["W8A8", "W4A4"])
@pytest.mark.parametrize(("name", "size"), FULL_SIZE)
def test_full_size_networks(name: str, size: int, precision: str, tmp_path: Path) -> None:
    """Networks of the zoo, at full resolution, give equal logits, those whose sums leave float32 as well."""
    model, images = integer_model(name, size, precision)
    wide = [
        layer
        for layer, op in model.layers().items()
        if np.abs(accumulator_bounds(op.weight, op.bias, model.formats[op.inputs[0]])).max() > FLOAT32_EXACT
    ]
    assert list(split_layers(model)) == wide
    assert (WIDE_SUMS[name, precision] in wide) if (name, precision) in WIDE_SUMS else not wide
    export_qonnx(model, tmp_path / "model.onnx")
    (result,) = compare(model, {"qonnx": tmp_path / "model.onnx"}, [images[:1]])
    assert result.exact
    assert result.logits == 1000


@pytest.mark.filterwarnings("ignore")
def test_pixels(tmp_path: Path) -> None:
    """A file that takes pixels gives the integers of the normalised images."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    pixels = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    export_qonnx(model, tmp_path / "model.onnx", pixels=pixels)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    (result,) = compare(model, {"qonnx": tmp_path / "model.onnx"}, [images], pixels=pixels)
    assert result.exact


def test_quant_nodes_state_the_bits() -> None:
    """Each layer's weights pass through a Quant node of its own bit width."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    made = to_qonnx(model)
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    bits = {node.output[0]: float(values[node.input[3]]) for node in made.graph.node if node.op_type == "Quant"}
    for name, op in model.layers().items():
        assert bits[f"{name}.weight"] == op.weight_bits


def test_the_file_states_its_conditions() -> None:
    """Scheme, certificates, images, and what an integer of each class is worth."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    facts = {entry.key: entry.value for entry in to_qonnx(model).metadata_props}
    assert json.loads(facts["bitwright"]) == {"scheme": model.scheme.to_dict(), "layers": model.facts}
    assert json.loads(facts["output_unit"]) == model.outputs["logits"].unit.tolist()
    assert facts["images"] == "float32, normalised as in training"
    assert facts["sums"] == "within 2**24, as float32 convolutions need in any order of summation"
    assert json.loads(facts["split_layers"]) == {}
