# SPDX-License-Identifier: MIT
"""`bitwright verify` runs every engine that is installed, and one logit that differs makes it fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from bitwright.benchmark import ENGINES
from bitwright.export import EXPORTERS, Pixels, Target, export_onnx
from bitwright.integer import IntegerModel
from cli.conftest import Command
from export.models import RESNET20, integer_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A W4A8 ResNet20."""
    path = tmp_path / "model.integer"
    integer_model(RESNET20, 32, "W4A8")[0].save(path)
    return path


def test_every_installed_engine_is_run(model: Path, bitwright: Command) -> None:
    """The table has a line for each engine and level, and says n of n."""
    shown = bitwright("verify", model, "--data", "mnist-5k", "--images", 8, "--json")
    assert shown.status == 0
    result = json.loads(shown.out)
    assert result["exact"] is True
    found = [(row["engine"], row["level"]) for row in result["rows"]]
    assert found == [(name, level) for name, known in ENGINES.items() if known.installed for level in known.levels]
    assert all((row["equal_images"], row["differing_logits"]) == (8, 0) for row in result["rows"])


def test_one_logit_that_differs_fails(model: Path, bitwright: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exporter whose bias of one class is off by one: the count says so, and the status is 1."""

    def wrong(
        model: IntegerModel, path: str | Path, target: Target | str = Target.ANY, pixels: Pixels | None = None
    ) -> None:
        layer = model.layers()["output"]
        bias = layer.bias.copy()
        bias[3] += 1
        ops = tuple(replace(op, bias=bias) if op is layer else op for op in model)
        export_onnx(replace(model, ops=ops), path, target, pixels)

    monkeypatch.setitem(EXPORTERS, "onnx", wrong)
    shown = bitwright("verify", model, "--data", "mnist-5k", "--images", 8, "--engine", "onnxruntime")
    assert shown.status == 1
    assert "0 of 8" in shown.out
    assert "72 of 80" in shown.out
