# SPDX-License-Identifier: MIT
"""`bitwright export --form qdq`: says what the file is not for, and is for ONNX alone."""

from __future__ import annotations

import json
from pathlib import Path

import onnx

from bitwright.graph import capture
from bitwright.integer.reader import load_integer
from cli.conftest import Command
from cli.networks import small
from export.models import RESNET20, integer_model
from export.tensorrt_rules import faults


def test_form(tmp_path: Path, bitwright: Command) -> None:
    """A QDQ file holds no integer operators; a note says that TensorRT cannot read uint8."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    model.save(tmp_path / "model.integer")
    given = ("export", tmp_path / "model.integer", "-o", tmp_path / "model.onnx")
    made = bitwright(*given, "--form", "qdq", "--json")
    assert made.status == 0
    assert json.loads(made.out)["form"] == "qdq"
    assert "not for TensorRT" in made.err
    kinds = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear", "Conv"} <= kinds
    assert not kinds & {"QLinearConv", "ConvInteger", "MatMulInteger"}
    assert json.loads(bitwright(*given, "--json").out)["form"] == "qoperator"
    refused = bitwright(*given, "--form", "qdp")
    assert refused.status == 1
    assert "did you mean 'qdq'" in refused.err
    refused = bitwright(*given, "--form", "qdq", "--engine", "openvino")
    assert refused.status == 1
    assert "--form qdq is for the engine onnx, got openvino" in refused.err


def test_for_tensorrt(tmp_path: Path, bitwright: Command) -> None:
    """`train --deploy tensorrt` writes it into the scheme, and the exported file has nothing that TensorRT cannot read."""
    capture(small().eval(), (1, 28, 28), name="small").save(tmp_path / "small.graph")
    data = ("--data", "mnist-5k", "--scheme", "W8A8", "--epochs", 0)
    checkpoint, integer, file = (tmp_path / f"small.{kind}" for kind in ("checkpoint", "integer", "onnx"))
    trained = bitwright("train", tmp_path / "small.graph", *data, "--deploy", "tensorrt", "-o", checkpoint)
    assert trained.status == 0, trained.err
    assert bitwright("lower", checkpoint, "-o", integer).status == 0
    assert load_integer(integer).scheme.deploy == "tensorrt"
    made = bitwright("export", integer, "--form", "qdq", "-o", file)
    assert made.status == 0
    assert "TensorRT" not in made.err
    assert faults(onnx.load(file)) == []
    refused = bitwright("train", tmp_path / "small.graph", *data, "--deploy", "tensor", "-o", checkpoint)
    assert refused.status == 1
    assert "did you mean 'tensorrt'" in refused.err
