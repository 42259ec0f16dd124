# SPDX-License-Identifier: MIT
"""Engines are compared by counting: one wrong logit is seen."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from bitwright.benchmark import ENGINES, compare, environment, load_engine, runtime, side_by_side, verify
from bitwright.benchmark.equality import count
from bitwright.errors import DataError, ExportError, FileFormatError, UnknownNameError
from bitwright.export import Target, export_float_onnx, export_onnx, form_of
from export.models import RESNET20, graph_of, integer_model


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A W4A4 ResNet20 as ONNX."""
    path = tmp_path_factory.mktemp("equality") / "model.onnx"
    export_onnx(integer_model(RESNET20, 32, "W4A4")[0], path)
    return path


def test_every_level_is_equal(exported: Path) -> None:
    """All logits of all images, at all four levels, over batches of different sizes."""
    model, images = integer_model(RESNET20, 32, "W4A4")
    steps = []
    results = compare(
        model, {"onnxruntime": exported}, [images[:5], images[5:]], total=2, progress=lambda *step: steps.append(step)
    )
    assert [result.level for result in results] == ["none", "basic", "extended", "all"]
    for result in results:
        assert result.exact
        assert (result.images, result.equal_images, result.logits, result.differing_logits) == (8, 8, 80, 0)
    assert steps == [(1, 2), (2, 2)]
    assert str(results[-1]) == "onnxruntime (all, batch 5, threads 1): 8 of 8 images equal"
    assert json.loads(json.dumps(results[0].to_dict()))["exact"] is True


def test_one_wrong_logit_is_found(exported: Path, tmp_path: Path) -> None:
    """A bias of one class that is off by one makes one logit of each image differ, by one."""
    model, images = integer_model(RESNET20, 32, "W4A4")
    file = onnx.load(exported)
    tensor = next(item for item in file.graph.initializer if item.name == "output.bias")
    bias = numpy_helper.to_array(tensor).copy()
    bias[3] += 1
    tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    onnx.save(file, tmp_path / "wrong.onnx")
    (result,) = compare(model, {"onnxruntime": tmp_path / "wrong.onnx"}, [images], levels={"onnxruntime": ["all"]})
    assert not result.exact
    assert (result.equal_images, result.differing_logits, result.largest_difference) == (0, 8, 1)


def test_floats_and_other_shapes_are_not_equal() -> None:
    """Float logits never count as equal integers, whatever their values."""
    expected = np.ones((2, 3), dtype=np.int32)
    for got in (expected.astype(np.float32), expected[:1]):
        counts = np.zeros(5, dtype=np.int64)
        assert count({"logits": got}, {"logits": expected}, counts) == ["logits"]
        assert counts[:4].tolist() == [2, 0, 6, 6]


def test_all_that_users_do_is_compared(exported: Path) -> None:
    """Each number of threads, and each batch size: the smaller ones for the images of the first batch."""
    model, images = integer_model(RESNET20, 32, "W4A4")
    results = compare(
        model,
        {"onnxruntime": exported},
        [images[:5], images[5:]],
        {"onnxruntime": ["none", "all"]},
        threads=(1, 2),
        smaller=(1, 2, 7),
    )
    found = [(result.level, result.threads, result.batch, result.images) for result in results]
    sizes = [(1, 5), (2, 5), (5, 8)]
    assert found == [(level, number, *size) for level in ("none", "all") for number in (1, 2) for size in sizes]
    assert all(result.exact for result in results)


def test_a_failure_is_a_result(exported: Path, tmp_path: Path) -> None:
    """A file that its engine does not load, beside one that it does: all its logits count as wrong, and the reason is told."""
    model, images = integer_model(RESNET20, 32, "W4A4")
    (tmp_path / "noise.xml").write_bytes(b"noise")
    good, bad = compare(
        model, {"onnxruntime": exported, "openvino": tmp_path / "noise.xml"}, [images], {"onnxruntime": ["all"]}
    )
    assert good.exact
    assert not bad.exact
    assert (bad.images, bad.equal_images, bad.differing_logits) == (8, 0, 80)
    assert "OpenVINO cannot read" in bad.failure
    assert bad.failure in str(bad)


def test_bad_requests(exported: Path, tmp_path: Path) -> None:
    """No images, no file, no such engine or level: each is one clear error."""
    model, images = integer_model(RESNET20, 32, "W4A4")
    with pytest.raises(DataError, match="at least one batch"):
        compare(model, {"onnxruntime": exported}, [])
    with pytest.raises(ExportError, match=r"found none at .*absent\.onnx"):
        load_engine("onnxruntime", tmp_path / "absent.onnx")
    with pytest.raises(UnknownNameError, match="did you mean 'onnxruntime'"):
        load_engine("onnxruntim", exported)
    with pytest.raises(UnknownNameError, match="optimisation level of onnxruntime 'most'"):
        load_engine("onnxruntime", exported, level="most")
    with pytest.raises(ValueError, match="a runtime 'onnxruntime' already"):
        runtime("onnxruntime", "onnxruntime", "onnx")(ENGINES["onnxruntime"].load)
    with pytest.raises(UnknownNameError, match="did you mean 'openvino'"):
        compare(model, {"openvin": exported}, [images])


def test_float_files_give_float_logits(tmp_path: Path) -> None:
    """The same function runs the float baseline, which returns floats."""
    graph, images = graph_of(RESNET20, 32)
    export_float_onnx(graph, tmp_path / "float.onnx")
    got = load_engine("onnxruntime", tmp_path / "float.onnx")(images.numpy())
    assert got.dtype == np.float32
    assert got.shape == (8, 10)
    assert torch.isfinite(torch.from_numpy(got)).all()


def test_verify_exports_for_each_engine() -> None:
    """`verify` makes the files itself, and refuses what this CPU cannot run exactly."""
    model, images = integer_model(RESNET20, 32, "W4A4")
    results = verify(model, [images], ["onnxruntime"])
    assert [result.level for result in results] == ["none", "basic", "extended", "all"]
    assert all(result.exact for result in results)
    if environment().target is not Target.VNNI:
        with pytest.raises(ExportError, match="this CPU has no 8-bit dot products"):
            verify(model, [images], ["onnxruntime"], target=Target.VNNI)


def test_verify_runs_every_installed_engine() -> None:
    """Without a choice, each engine that is installed gets its own file, and one image."""
    model, images = integer_model(RESNET20, 32, "W4A4")
    heard: list[str] = []
    results = verify(
        model,
        [images[:1]],
        total=1,
        progress=lambda done, total: heard.append(f"{done}/{total}"),
        stage=heard.append,
    )
    installed = [name for name, found in ENGINES.items() if found.installed]
    words = [word for word in heard if "/" not in word]
    assert words == [*(f"exporting for {name}" for name in installed), f"comparing {', '.join(installed)}"]
    assert heard[-1] == "1/1"
    if "tvm" in installed:  # it compiles for many seconds, and counts
        counted = heard[heard.index("exporting for tvm") + 1 : heard.index(words[-1])]
        assert counted == [f"{done}/{len(model.ops) + 2}" for done in range(1, len(model.ops) + 3)]
    assert {result.engine for result in results} == {name for name, found in ENGINES.items() if found.installed}
    assert all(result.exact for result in results)


@pytest.mark.skipif(not ENGINES["openvino"].installed, reason="the extra 'openvino' is not installed")
def test_engines_side_by_side(exported: Path, tmp_path: Path) -> None:
    """Files of several engines are timed in the same rounds, each by its own engine; .xml files count with their weights."""
    model, _ = integer_model(RESNET20, 32, "W4A4")
    form_of("openvino").export(model, tmp_path / "model.xml")
    files = {"onnx": exported, "openvino": tmp_path / "model.xml"}
    if ENGINES["litert"].installed:
        form_of("litert").export(model, tmp_path / "model.tflite")
        files["litert"] = tmp_path / "model.tflite"
    rows = side_by_side(files, batches=[1], rounds=2)
    assert [row.engine for row in rows] == ["onnxruntime", "openvino", "litert"][: len(files)]
    parts = [(tmp_path / name).stat().st_size for name in ("model.xml", "model.bin")]
    assert rows[1].file_bytes == sum(parts)
    with pytest.raises(ExportError, match=r"ends in one of .*\.onnx.*, got .*model\.bin"):
        side_by_side({"other": tmp_path / "model.bin"})


def test_side_by_side(exported: Path, tmp_path: Path) -> None:
    """Files are timed against the first, with load time, memory and size of each."""
    graph, _ = graph_of(RESNET20, 32)
    export_float_onnx(graph, tmp_path / "float.onnx")
    files = {"float": tmp_path / "float.onnx", "integer": exported}
    rows = side_by_side(files, batches=[2], rounds=3)
    assert [(row.name, row.batch) for row in rows] == [("float", 2), ("integer", 2)]
    assert rows[0].speedup.median == 1.0
    assert all(row.latency_ms.lower > 0 and row.load_ms > 0 for row in rows)
    # Of the process that runs the file alone: this one has PyTorch besides.
    assert all(30 < row.peak_memory_mb < 300 for row in rows)
    assert rows[1].file_bytes == exported.stat().st_size < rows[0].file_bytes
    assert json.loads(json.dumps(rows[1].to_dict()))["batch"] == 2
    (tmp_path / "noise.onnx").write_bytes(b"noise")
    with pytest.raises((FileFormatError, ExportError), match=r"noise\.onnx"):
        side_by_side({"noise": tmp_path / "noise.onnx"})
    with pytest.raises(ExportError, match="at least one file"):
        side_by_side({})
