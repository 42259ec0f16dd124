# SPDX-License-Identifier: MIT
"""`bitwright export --engine qonnx`: says which layers float32 holds in two parts only."""

from __future__ import annotations

import json
from pathlib import Path

from cli.conftest import Command
from export.models import RESNET20, integer_model, model_of_wide_sums


def test_split_layers_are_named(tmp_path: Path, bitwright: Command) -> None:
    """In one line for people, and as a list for machines."""
    model_of_wide_sums()[0].save(tmp_path / "model.integer")
    given = ("export", tmp_path / "model.integer", "--engine", "qonnx", "--no-check", "-o", tmp_path / "model.onnx")
    shown = bitwright(*given)
    assert shown.status == 0
    line = "1 of 22 layers in two parts, since their sums can exceed the 2**24 that float32 holds: output"
    assert line in shown.err.splitlines()
    assert json.loads(bitwright(*given, "--json").out)["split_layers"] == ["output"]


def test_other_models_say_nothing(tmp_path: Path, bitwright: Command) -> None:
    """Where float32 holds all sums, there is nothing to say."""
    integer_model(RESNET20, 32, "W4A4")[0].save(tmp_path / "model.integer")
    shown = bitwright(
        "export", tmp_path / "model.integer", "--engine", "qonnx", "--no-check", "-o", tmp_path / "model.onnx"
    )
    assert "digits" not in shown.err + shown.out
