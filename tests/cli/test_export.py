# SPDX-License-Identifier: MIT
"""`bitwright export` runs what it wrote, unless told not to, and leaves no file that differs."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import onnx
import pytest

from bitwright.benchmark import Equality
from bitwright.export import FORMS, Pixels, Target, export_onnx, form_of
from bitwright.export.seal import NOT_CHECKED, stated
from bitwright.integer import IntegerModel, lower
from bitwright.integer.reader import load_integer
from cli.conftest import Command
from random_networks import random_model
from several_outputs import quantized


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A random network."""
    random_model(2).model.save(tmp_path / "model.integer")
    return tmp_path / "model.integer"


def test_what_was_done_stands_in_the_file(model: Path, bitwright: Command) -> None:
    """Where it was run and equal, or that it was not checked."""
    file = model.with_suffix(".onnx")
    for options, expected in (((), "equal at batch 1, 2 and 3"), (("--no-check",), NOT_CHECKED)):
        made = json.loads(bitwright("export", model, "-o", file, "--json", *options).out)
        assert made["checked"].startswith(expected)
        assert stated(file)["checked"] == made["checked"].strip()


def test_a_difference_leaves_no_file(model: Path, bitwright: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says how many logits, and where the difference begins; with --no-check, the file is there to look into."""

    def wrong(
        model: IntegerModel, path: str | Path, target: Target | str = Target.ANY, pixels: Pixels | None = None
    ) -> None:
        first = next(iter(model.layers().values()), None)
        ops = tuple(replace(op, bias=op.bias + 1000) if op is first else op for op in model)
        export_onnx(replace(model, ops=ops, facts={}), path, target, pixels)

    onnx = form_of("onnx")
    changed = tuple(replace(form, exporter=wrong) if form is onnx else form for form in FORMS)
    monkeypatch.setattr("bitwright.export.form.FORMS", changed)
    file = model.with_suffix(".onnx")
    first = next(iter(load_integer(model).layers()))
    shown = bitwright("export", model, "-o", file)
    assert shown.status == 1
    assert f"the difference begins at '{first}'. The file is removed" in shown.err
    assert not file.exists()
    assert bitwright("export", model, "-o", file, "--no-check").status == 0
    assert file.exists()


def test_a_tail_is_asked_for_by_kind_and_output(bitwright: Command, tmp_path: Path) -> None:
    """For every output or some, in ONNX files; what cannot be is refused in one line, without a file."""
    lower(quantized("tuple", 4)).save(tmp_path / "model.integer")
    command = ("export", tmp_path / "model.integer", "-o", tmp_path / "model.onnx", "--tail")
    for arguments, message in (
        (["softmax", "--engine", "litert"], "--tail is for the engine onnx, got litert"),
        (["softmax", "--tail", "output1=sigmoid"], "expected OUTPUT=KIND where --tail is given several times"),
        (["output1=max"], "unknown tail 'max'"),
        (
            ["output0=softmax", "--tail", "output0=sigmoid"],
            "one --tail of the output 'output0', got softmax and sigmoid",
        ),
    ):
        ended = bitwright(*command, *arguments)
        assert ended.status != 0
        assert message in ended.err.replace("\n", " "), ended.err
    assert not (tmp_path / "model.onnx").exists()
    ended = bitwright(*command, "output0=softmax")
    assert ended.status == 0, ended.err
    assert onnx.load(tmp_path / "model.onnx").graph.output[-1].name == "output0_softmax"


@pytest.mark.parametrize("tail", ["softmax", "output1=sigmoid"])
def test_a_difference_is_located_behind_tails_too(
    bitwright: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tail: str
) -> None:
    """The first operations, which are exported for that, have other outputs, and no tails."""
    model = lower(quantized("tuple", 4))
    model.save(tmp_path / "model.integer")
    wrong = Equality("onnxruntime", "all", 1, 1, 1, 0, 1, 1, 1)
    module = import_module("bitwright.benchmark.checked_export")
    monkeypatch.setattr(module, "_first_difference", lambda *_: wrong)
    file = tmp_path / "model.onnx"
    ended = bitwright("export", tmp_path / "model.integer", "-o", file, "--tail", tail)
    assert ended.status == 1
    assert f"the difference begins at '{model.ops[0].name}'. The file is removed" in ended.err
    assert not file.exists()
