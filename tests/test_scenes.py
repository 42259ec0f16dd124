# SPDX-License-Identifier: MIT
"""A segmenter and a detector go the whole way on scenes of digits, as `benchmarks/scenes.py` measures it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from bitwright.allocation import allocate, graph_problem
from bitwright.benchmark import ENGINES, compare, load_engine
from bitwright.data import load_data
from bitwright.export import export_onnx
from bitwright.graph import capture, layer_costs, load_model, scheme_cost
from bitwright.integer import logits, prepare, run
from bitwright.returned import by_name
from bitwright.scheme import Budget, Precision, Scheme
from bitwright.sensitivity import SensitivitySettings, measure_sensitivity
from bitwright.task import agreement, decoded, dense_classification
from bitwright.training import TrainSettings, evaluate, fine_tune
from graph.networks import randomized
from integer.certified import certified

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
scenes = importlib.import_module("scenes")

FEW = TrainSettings(epochs=1, learning_rate=0.002, batch_size=20, data_fraction=0.02)


def tiny(name: str) -> scenes.Study:
    """A narrow network on small scenes, trained for a moment."""
    study = scenes.STUDIES[name]
    return replace(study, make=partial(study.make, width=4), size=32, floats=FEW, tuned=FEW)


@pytest.mark.parametrize("name", scenes.STUDIES)
def test_the_whole_way(name: str, tmp_path: Path) -> None:
    """Float, sensitivities with labels and without, search, training, integers: those of training, and of ONNX Runtime."""
    study = tiny(name)
    graph, data, task = scenes.trained(name, study, tmp_path), study.scenes(), study.task()
    settings = SensitivitySettings(relative_error=0.9, max_probes=8)
    if name == "detector":
        table = measure_sensitivity(graph, *data.calibration(4), replace(settings, bits=[4]), task=task)
        assert [layer.layer for layer in table.layers] == list(graph.layers)
    scheme = scenes.scheme_of("search", graph, data, images=4, settings=settings)
    assert len({precision.weight_bits for precision in scheme.layers.values()}) > 1
    model, _ = fine_tune(graph, scheme, data, study.tuned, task=task, calibration_images=64)
    integer = certified(model)
    images, targets = data.test.read(range(5))
    ready = prepare(integer)
    with torch.no_grad():
        for made, real in zip(by_name(model(images)).values(), by_name(logits(integer, images)).values(), strict=True):
            assert torch.equal(made, real)
    export_onnx(integer, tmp_path / "model.onnx")
    got = by_name(load_engine("onnxruntime", tmp_path / "model.onnx").integers(images.numpy()))
    assert all(np.array_equal(got[key], wanted.numpy()) for key, wanted in by_name(run(integer, images)).items())
    scores = evaluate(ready.logits, [(images, targets)], task=task)
    assert scores.images == 5
    if name == "detector":
        assert [set(found) for found in decoded(ready.logits(images))] == [{"boxes", "scores", "labels"}] * 5


def test_the_page_has_what_was_measured() -> None:
    """Rows that are there, in order, and what each engine said."""
    rows: dict[str, Mapping[str, object]] = {
        "unet/W4A4": {
            "mean_iou_percent": 61.25, "pixel_accuracy_percent": 98.0, "size_mb": 0.05, "engines": {"onnxruntime": "equal"},
        },
        "unet/float": {"mean_iou_percent": 64.0, "pixel_accuracy_percent": 98.5},
    }  # fmt: skip
    page = scenes.page({"rows": rows, "environment": {"processor": "a processor"}})
    assert "Measured on a processor.\n" in page
    assert "| float | 64.0 | 98.5 |  |\n| W4A4 | 61.2 | 98.0 | 0.05 |\n\n- W4A4 in onnxruntime: equal\n" in page


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", scenes.STUDIES)
def test_integers_are_as_good_as_float(name: str, tmp_path: Path) -> None:
    """At W8A8 within two points of float, at W4A4 within 25, and equal in every engine."""
    study = scenes.STUDIES[name]
    key = study.task().scores[0].key
    rows = {width: scenes.measure(name, study, width, tmp_path) for width in ("float", "W8A8", "W4A4")}
    assert rows["W8A8"][key] > rows["float"][key] - 2
    assert rows["W4A4"][key] > rows["float"][key] - 25
    assert set(rows["W4A4"]["engines"].values()) <= {"equal", "not installed"}


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("name", ["lraspp_mobilenet_v3_large", "deeplabv3_mobilenet_v3_large", "fcn_resnet50"])
def test_segmenters_of_torchvision_go_the_whole_way(name: str, tmp_path: Path) -> None:
    """On small scenes: sensitivities with labels and without, search, a step of training, lowering, and every engine."""
    data = load_data("digit-scenes", image_size=64, channels=3)
    torch.manual_seed(0)
    model = randomized(load_model(f"torchvision:{name}", num_classes=len(data.classes)))
    graph = capture(model, data.shape, name=name)
    images, masks = data.train.read(range(4))
    settings = SensitivitySettings(relative_error=0.9, max_probes=4, bits=[4, 8])
    labelled = measure_sensitivity(graph, images[:2], masks[:2], settings, task=dense_classification())
    table = measure_sensitivity(graph, images[:2], None, settings, task=agreement())
    assert [layer.layer for layer in labelled.layers] == [layer.layer for layer in table.layers] == list(graph.layers)
    choices = [Precision(4, 8), Precision(8, 8)]
    half = scheme_cost(layer_costs(graph), Scheme.uniform(graph.layers, Precision(8, 8))).size_mb * 0.7
    scheme = allocate(graph_problem(graph, table, choices=choices), [Budget.parse(f"size={half}MB")], "mixed").scheme
    few = TrainSettings(epochs=1, learning_rate=1e-4, batch_size=2)
    batches = [(images[:2], masks[:2]), (images[2:], masks[2:])]
    trained, _ = fine_tune(graph, scheme, batches, few, task=dense_classification(), settle_norm=False)
    integer = certified(trained)
    with torch.no_grad():
        assert torch.equal(trained(images), logits(integer, images))
    for engine, found in ENGINES.items():
        if found.installed:
            path = tmp_path / f"{engine}{found.form.suffix}"
            found.form.export(integer, path)
            (result,) = compare(integer, {engine: path}, [images[:1]], {engine: found.levels[-1:]})
            assert result.exact, str(result)
