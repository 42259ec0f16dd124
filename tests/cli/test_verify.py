# SPDX-License-Identifier: MIT
"""`bitwright verify` runs every engine that is installed, and one logit that differs makes it fail."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from bitwright.benchmark import ENGINES, runtimes
from bitwright.export import Pixels, Target, export_onnx
from bitwright.integer import IntegerModel
from bitwright.integer.reader import load_integer
from cli.conftest import Command
from export.models import RESNET20, integer_model
from random_networks import random_model

SQUARE = 20
"""The seed of a network that no engine is refused, for images of three channels, as wide as high."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A W4A8 ResNet20."""
    path = tmp_path / "model.integer"
    integer_model(RESNET20, 32, "W4A8")[0].save(path)
    return path


def test_every_installed_engine_is_run(tmp_path: Path, bitwright: Command) -> None:
    """The table has a line for each engine, level, number of threads and batch size, and says n of n."""
    model = tmp_path / "model.integer"
    random_model(SQUARE).model.save(model)
    shown = bitwright("verify", model, "--data", "mnist-5k", "--images", 3, "--stress", 2, "--threads", 2, "--json")
    assert shown.status == 0
    result = json.loads(shown.out)
    assert result["exact"] is True
    found = [(row["engine"], row["level"], row["threads"], row["batch"]) for row in result["rows"]]
    assert found == [
        (name, level, threads, batch)
        for name, known in ENGINES.items()
        if known.installed
        for level in known.levels
        for threads in ((1, 2) if known.threaded else (1,))
        for batch in (1, 2, 5)
    ]
    assert all((row["equal_images"], row["differing_logits"], row["failure"]) == (5, 0, "") for row in result["rows"])


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

    engine = ENGINES["onnxruntime"]
    monkeypatch.setitem(ENGINES, "onnxruntime", replace(engine, form=replace(engine.form, exporter=wrong)))
    shown = bitwright("verify", model, "--data", "mnist-5k", "--images", 8, "--engine", "onnxruntime", "--threads", 1)
    assert shown.status == 1
    assert "0 of 8" in shown.out
    assert "72 of 80" in shown.out


def test_an_engine_that_ends_is_a_row(model: Path, bitwright: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that kills its engine: the others are compared, and the status is 1."""
    text = Path(runtimes.__file__).read_text(encoding="utf-8")
    deadlier = model.with_name("runtimes.py")
    before = "    import openvino\n"
    assert before in text
    deadlier.write_text(text.replace(before, f"{before}    os.kill(os.getpid(), 11)\n"), encoding="utf-8")
    monkeypatch.setattr(runtimes, "__file__", str(deadlier))
    shown = bitwright("verify", model, "--stress", 1, "-e", "openvino", "-e", "onnxruntime", "--threads", 1, "--json")
    assert shown.status == 1
    rows = json.loads(shown.out)["rows"]
    failures = {row["engine"]: row["failure"] for row in rows}
    assert failures == {"openvino": "openvino was ended by SIGSEGV", "onnxruntime": ""}


def test_an_exported_file_is_checked(model: Path, bitwright: Command, tmp_path: Path) -> None:
    """By what it states of itself; against its model; by running it, pixels or not."""
    file = tmp_path / "model.onnx"
    assert bitwright("export", model, "-o", file, "--data", "mnist-5k").status == 0
    alone = json.loads(bitwright("verify", file, "--json").out)
    assert (alone["exact"], alone["contents_as_exported"], alone["rows"]) == (True, True, [])
    assert alone["checked"].startswith("equal at batch 1, 2 and 3")
    run = bitwright("verify", file, "--model", model, "--data", "mnist-5k", "--images", 2, "--stress", 3, "--json")
    result = json.loads(run.out)
    assert (run.status, result["digest_of_model"]) == (0, True)
    assert {(row["level"], row["equal_images"]) for row in result["rows"]} == {
        (level, 5) for level in ENGINES["onnxruntime"].levels
    }

    other = tmp_path / "other.integer"
    integer_model(RESNET20, 32, "W4A4")[0].save(other)
    shown = bitwright("verify", file, "--model", other)
    assert (shown.status, "digest of the model: NO" in shown.out) == (1, True)

    made = onnx.load(file)
    weight = next(item for item in made.graph.initializer if item.name == "output.bias")
    weight.raw_data = bytes([weight.raw_data[0] ^ 1]) + weight.raw_data[1:]
    onnx.save(made, file)
    shown = bitwright("verify", file)
    assert (shown.status, "constants as exported: NO" in shown.out) == (1, True)
    del made.metadata_props[:]
    onnx.save(made, file)
    shown = bitwright("verify", file)
    assert (shown.status, "states no digest" in shown.err) == (1, True)


def test_requests_without_images_or_model(model: Path, bitwright: Command, tmp_path: Path) -> None:
    """One line each, which says what to add."""
    assert "add --data NAME, --stress N, or both" in bitwright("verify", model).err
    assert "--model is for an exported file" in bitwright("verify", model, "--model", model).err
    export_onnx(load_integer(model), tmp_path / "model.onnx")
    shown = bitwright("verify", tmp_path / "model.onnx", "--stress", 3)
    assert (shown.status, "add --model MODEL" in shown.err) == (1, True)
