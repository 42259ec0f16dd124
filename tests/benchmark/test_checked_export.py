# SPDX-License-Identifier: MIT
"""What an export wrote is run: a file that differs, does not load, or ends its engine is removed, and the message says where."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from bitwright.benchmark import ENGINES, checked_export
from bitwright.errors import ExportError
from bitwright.export import export_onnx, export_openvino, form_of
from bitwright.export.seal import NOT_CHECKED, stated
from bitwright.integer import IntegerModel
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
