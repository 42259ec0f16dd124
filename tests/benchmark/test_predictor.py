# SPDX-License-Identifier: MIT
"""What every engine's file predicts, as `bitwright evaluate` reads it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from bitwright.benchmark import ENGINES, predictor, side_by_side
from bitwright.benchmark.engines import Engine, engine_of
from bitwright.errors import ExportError, FileFormatError
from bitwright.export import Pixels, Target, export_float_onnx, export_onnx
from bitwright.integer import lower, run
from training.small import SHAPE, digits, small_graph, small_quantized

INSTALLED = [pytest.param(found, id=name) for name, found in ENGINES.items() if found.installed]


@pytest.mark.parametrize("engine", INSTALLED)
def test_files_of_every_engine(engine: Engine, tmp_path: Path) -> None:
    """Real logits are the integers of the model times their units, as float32, in batches of any size."""
    model, path = lower(small_quantized("W4A4")), tmp_path / f"model{engine.form.suffix}"
    engine.form.export(model, path, Target.ANY)
    found = predictor(path)
    assert found.input_shape == SHAPE
    assert found.description == f"{path.name} in {engine.name}"
    images, _ = digits().test.read(range(20))
    for part in (images[:13], images[13:]):
        expected = run(model, part).numpy().astype(np.float32) * model.outputs["logits"].unit.astype(np.float32)
        assert np.array_equal(found.predict(part).numpy(), expected)
    if engine.form.suffix == ".onnx":  # of which there are two
        (measured,) = side_by_side({"model": path}, batches=(1,), rounds=1)
        assert measured.engine == engine.name


@pytest.mark.parametrize("engine", INSTALLED)
def test_files_that_cannot_be_evaluated(engine: Engine, tmp_path: Path) -> None:
    """Damaged and missing files are refused in one line."""
    path = tmp_path / f"model{engine.form.suffix}"
    with pytest.raises(FileFormatError, match=r"cannot read '.*': there is no such file"):
        predictor(path)
    path.write_bytes(b"noise")
    with pytest.raises(FileFormatError, match=r"expected an? .*, got text, in '.*/model\.\w+'\."):
        predictor(path)


@pytest.mark.parametrize("engine", INSTALLED)
def test_files_that_take_pixels(engine: Engine, tmp_path: Path) -> None:
    """They predict from the pixels what the model makes of the images, normalised as the file says."""
    model, path, data = lower(small_quantized("W4A4")), tmp_path / f"model{engine.form.suffix}", digits()
    engine.form.export(model, path, Target.ANY, Pixels(data.mean, data.std))
    images, _ = data.test.read(range(20))
    expected = run(model, images).numpy().astype(np.float32) * model.outputs["logits"].unit.astype(np.float32)
    assert np.array_equal(predictor(path).predict(images).numpy(), expected)


def test_a_file_of_pixels_that_says_nothing_of_them(tmp_path: Path) -> None:
    """Another program's, say, whose normalisation nobody knows."""
    path = tmp_path / "model.onnx"
    export_onnx(lower(small_quantized("W4A4")), path, pixels=Pixels((0.5,), (0.5,)))
    made = onnx.load(path)
    del made.metadata_props[:]
    onnx.save(made, path)
    with pytest.raises(FileFormatError, match="takes uint8, and does not say how that is normalised"):
        predictor(path)


def test_the_engine_of_a_file(tmp_path: Path) -> None:
    """ONNX files with float layers run in ONNX Runtime; other names are refused with those that are known."""
    graph, path = small_graph(), tmp_path / "float.onnx"
    export_float_onnx(graph, path)
    assert engine_of(path) == "onnxruntime"
    images, labels = digits().test.read(range(8))
    assert predictor(path).predict(images).shape == (len(labels), 10)
    assert torch.equal(predictor(path).predict(images), predictor(path).predict(images))
    with pytest.raises(ExportError, match=r"ends in one of \.onnx, \.so, \.tflite, \.xml"):
        engine_of(tmp_path / "model.bin")
