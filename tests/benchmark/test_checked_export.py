# SPDX-License-Identifier: MIT
"""What an export wrote is run: a file that differs, does not load, or ends its engine is removed, and the message says where."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.benchmark import ENGINES, checked_export
from bitwright.benchmark.table_probe import table_probe
from bitwright.errors import ExportError
from bitwright.export import export_onnx, export_openvino, form_of
from bitwright.export.onnx.functions import function_in_onnx
from bitwright.export.onnx.graph import OnnxGraph
from bitwright.export.seal import NOT_CHECKED, stated
from bitwright.graph.functions import Program
from bitwright.integer import IntegerModel, IntegerTable, run
from export.models import images_alone
from integer.gated import gated_model
from random_networks import RandomModel, random_model


@pytest.fixture(scope="module")
def given() -> RandomModel:
    """A network of several layers."""
    return random_model(2)


def off_by_one(model: IntegerModel, path: Path, *, layer: str, given: RandomModel) -> None:
    """Exports to ONNX with one bias that is another."""
    found = model.layers().get(layer)
    if found is not None:
        bias = found.bias.copy()
        bias[:] += 1000
        ops = tuple(replace(found, bias=bias) if op is found else op for op in model)
        model = replace(model, ops=ops, facts={})
    export_onnx(model, path, given.target, given.pixels)


def test_an_equal_file_says_that_it_was_run(given: RandomModel, tmp_path: Path) -> None:
    """At which batch sizes, with how many threads, in which engine."""
    path = tmp_path / "model.onnx"

    def write(model: IntegerModel, place: Path) -> None:
        export_onnx(model, place, given.target, given.pixels)
        assert stated(place)["checked"] == NOT_CHECKED

    words = checked_export(write, given.model, path, form_of("onnx"), pixels=given.pixels)
    assert words.startswith("equal at batch 1, 2 and 3 with 1")
    assert "in onnxruntime 1." in words
    assert stated(path)["checked"] == words.strip()


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_difference_removes_the_file_and_is_located(given: RandomModel, which: int, tmp_path: Path) -> None:
    """The first operation whose integers differ, found from parts of the model."""
    layer = list(given.model.layers())[which]
    write = partial(off_by_one, layer=layer, given=given)
    with pytest.raises(ExportError, match=f"images equal; the difference begins at '{layer}'"):
        checked_export(write, given.model, tmp_path / "model.onnx", form_of("onnx"), pixels=given.pixels)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not ENGINES["openvino"].installed, reason="the extra 'openvino' is not installed")
def test_a_file_that_does_not_load_is_removed(given: RandomModel, tmp_path: Path) -> None:
    """Both of OpenVINO's files go."""

    def write(model: IntegerModel, path: Path) -> None:
        export_openvino(model, path, given.target, given.pixels)
        path.write_text(path.read_text().replace('type="Const"', 'type="Konst"'))

    with pytest.raises(ExportError, match="OpenVINO cannot read"):
        checked_export(write, given.model, tmp_path / "model.xml", form_of("openvino"), pixels=given.pixels)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_run_here_is_not_checked(
    given: RandomModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that is not installed leaves the file, which says so."""

    def write(model: IntegerModel, path: Path) -> None:
        export_onnx(model, path, given.target, given.pixels)

    monkeypatch.setitem(ENGINES, "onnxruntime", replace(ENGINES["onnxruntime"], package="no_such_package"))
    words = checked_export(write, given.model, tmp_path / "model.onnx", form_of("onnx"), pixels=given.pixels)
    assert words == "not checked on this machine: onnxruntime is not installed"
    assert stated(tmp_path / "model.onnx")["checked"] == NOT_CHECKED


def test_functions_are_run_on_all_their_inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One entry of one table that is another, which no image of the check reads, removes the file."""
    model = gated_model("W8A8")
    images = torch.zeros(3, *model.input_shape)
    assert checked_export(export_onnx, model, tmp_path / "model.onnx", form_of("onnx"), images=images)

    def clipped(program: Program, x: str, output: str, graph: OnnxGraph, **options: bool) -> str:
        least = graph.node("Min", [x, graph.scalar(3.0)], f"{output}.least")
        return function_in_onnx(program, least, output, graph, **options)

    monkeypatch.setattr("bitwright.export.operations.table.function_in_onnx", clipped)
    with pytest.raises(ExportError, match="expected the entries of all tables of gated from onnxruntime"):
        checked_export(export_onnx, model, tmp_path / "other.onnx", form_of("onnx"), images=images)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_the_probe_reads_every_entry() -> None:
    """Of each table that engines may compute, once, in the order of its integers."""
    model = gated_model("W4A4")
    found = table_probe(model)
    assert found is not None
    probe, image = found
    results = run(probe, image)[0]
    tables = [op for op in probe if isinstance(op, IntegerTable)]
    assert len(tables) == results.shape[0] == sum(isinstance(op, IntegerTable) and op.computable for op in model)
    for op, got in zip(tables, results, strict=True):
        assert got.flatten().tolist() == np.resize(op.entries, 256).tolist()
    assert table_probe(images_alone(model)) is None
