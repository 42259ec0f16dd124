# SPDX-License-Identifier: MIT
"""Files of networks with several outputs: each engine returns the integers of each, by name, and what they are worth."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bitwright.benchmark import ENGINES, EngineProcess, Setting, compare, load_engine, predictor
from bitwright.benchmark.checked_export import checked_export
from bitwright.errors import ExportError, UnknownNameError
from bitwright.export import export_onnx, export_qdq
from bitwright.export.form import form_of
from bitwright.export.onnx.float_network import export_float_onnx
from bitwright.graph import FloatModel
from bitwright.integer import IntegerModel, logits, lower, run
from export.unoptimised import unoptimised
from several_outputs import RETURNED, captured, images, quantized

BATCHES = (1, 2, 5)


@cache
def lowered(name: str, bits: int) -> IntegerModel:
    """A model that several engines are given."""
    return lower(quantized(name, bits))


def assert_equal(engine: str, path: Path, model: IntegerModel) -> None:
    """All integers of all outputs, and these times their unit, in float32."""
    session = load_engine(engine, path)
    assert sorted(session.outputs) == sorted(model.outputs)
    for count in BATCHES:
        given = images(5)[:count]
        expected = run(model, given)
        integers, real = session.integers(given.numpy()), session.logits(given.numpy())
        for name, wanted in expected.items():
            unit = model.outputs[name].across(wanted.dim() - 1).astype(np.float32)
            assert integers[name].dtype == np.int32
            assert np.array_equal(integers[name], wanted.numpy()), (name, count)
            assert np.array_equal(real[name], wanted.numpy().astype(np.float32) * unit), (name, count)


def exported(engine: str, model: IntegerModel, folder: Path) -> Path:
    """A file for an engine."""
    if not ENGINES[engine].installed:
        pytest.skip(f"the extra '{engine}' is not installed")
    path = folder / f"model{ENGINES[engine].form.suffix}"
    (unoptimised if engine == "tvm" else ENGINES[engine].form.export)(model, path)
    return path


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", ["twice", "clamped", "moved", "viewed"])
def test_engines_return_all_outputs(engine: str, name: str, tmp_path: Path) -> None:
    """Heads of images and of features, tensors that are returned twice or read on, and units that moved; W4A4."""
    model = lowered(name, 4)
    assert_equal(engine, exported(engine, model, tmp_path), model)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", RETURNED)
def test_engines_return_the_outputs_of_every_module(engine: str, bits: int, name: str, tmp_path: Path) -> None:
    """Every way to return several tensors."""
    model = lowered(name, bits)
    assert_equal(engine, exported(engine, model, tmp_path), model)


@pytest.mark.parametrize("name", ["twice", "clamped", "viewed"])
def test_the_qdq_form_returns_all_outputs(name: str, tmp_path: Path) -> None:
    """With the names that the other form has."""
    model = lowered(name, 4)
    export_qdq(model, tmp_path / "model.onnx")
    assert_equal("onnxruntime", tmp_path / "model.onnx", model)


def test_float_files_return_all_outputs(tmp_path: Path) -> None:
    """The baseline too, although a layer is called as an output is."""
    graph = captured("twice")[1]
    export_float_onnx(graph, tmp_path / "float.onnx")
    session = load_engine("onnxruntime", tmp_path / "float.onnx")
    assert session.outputs == tuple(graph.outputs)
    got = session(images(5).numpy())
    for name, wanted in FloatModel(graph).eval().requires_grad_(False)(images(5)).items():
        np.testing.assert_allclose(got[name], wanted.numpy(), rtol=1e-4, atol=1e-5)


def _changed(path: Path, layer: str) -> None:
    """Another bias of a layer."""
    file = onnx.load(path)
    tensor = next(item for item in file.graph.initializer if item.name == f"{layer}.bias")
    bias = numpy_helper.to_array(tensor).copy()
    bias.flat[0] += 1
    tensor.CopyFrom(numpy_helper.from_array(bias, tensor.name))
    onnx.save(file, path)


def test_the_output_that_differs_is_named(tmp_path: Path) -> None:
    """By `compare`, which counts over all outputs, and by an export that runs what it wrote."""
    model = lowered("tuple", 4)
    export_onnx(model, tmp_path / "model.onnx")
    levels = {"onnxruntime": ["all"]}
    (result,) = compare(model, {"onnxruntime": tmp_path / "model.onnx"}, [images(5)], levels)
    assert result.exact
    assert (result.logits, result.differing_outputs) == (5 * (5 + 6 * 8 * 6), ())
    _changed(tmp_path / "model.onnx", "head")
    (result,) = compare(model, {"onnxruntime": tmp_path / "model.onnx"}, [images(5)], levels)
    assert (result.equal_images, result.differing_logits, result.largest_difference) == (0, 5 * 8 * 6, 1)
    assert result.differing_outputs == ("output1",)
    assert str(result).endswith("0 of 5 images equal (differing: output1)")

    def write(given: IntegerModel, path: Path) -> None:
        export_onnx(given, path)
        if any(op.name == "head" for op in given):
            _changed(path, "head")

    with pytest.raises(ExportError, match=r"differing: output1\); the difference begins at 'head'"):
        checked_export(write, model, tmp_path / "wrong.onnx", form_of("onnx"))
    assert not (tmp_path / "wrong.onnx").exists()


def test_processes_and_predictors(tmp_path: Path) -> None:
    """Outputs come by name from an engine's process, and from what evaluates files; or one of them, which it then says."""
    model = lowered("features and logits", 4)
    export_onnx(model, tmp_path / "model.onnx")
    with EngineProcess("onnxruntime") as process:
        got = process.logits(tmp_path / "model.onnx", images(5).numpy(), Setting("onnxruntime", "all", 1, 2))
    assert list(got) == ["features", "logits"]
    assert all(np.array_equal(got[name], wanted.numpy()) for name, wanted in run(model, images(5)).items())
    model.save(tmp_path / "model")
    real = logits(model, images(5))
    for file, dtype in ((tmp_path / "model", np.float64), (tmp_path / "model.onnx", np.float32)):
        found = predictor(file)
        assert found.output_shapes == model.output_shapes
        assert all(
            np.array_equal(made.numpy(), real[name].numpy().astype(dtype))
            for name, made in found.predict(images(5)).items()
        )
        for name, chosen in (("features", None), ("logits", "logits")):
            alone = found.of_output(chosen)
            assert (alone.output_shape, alone.description[-len(name) - 9 :]) == (
                model.output_shapes[name],
                f"output '{name}'",
            )
            assert np.array_equal(alone.predict(images(5)).numpy(), real[name].numpy().astype(dtype))
        with pytest.raises(UnknownNameError, match=r"unknown output 'boxes'.* Known: features, logits"):
            found.of_output("boxes")
