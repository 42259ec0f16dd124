# SPDX-License-Identifier: MIT
"""`--task` means one thing in every command, and what does not fit is refused in one line that names what does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bitwright.data import registry
from bitwright.graph import Graph
from bitwright.sensitivity import SensitivitySettings, SensitivityTable, measure_sensitivity
from bitwright.task import Task, agreement, dense_classification, load_task
from cli.conftest import Command
from training.segmenter import shapes
from training.small import small_graph

DENSE = ("--task", "dense-classification")


@pytest.fixture
def graph(bitwright: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A segmenter, trained on the command line; `shapes` is a data set."""
    monkeypatch.setattr(registry, "_SOURCES", {**registry._SOURCES, "shapes": lambda request: shapes()})
    options = ("--image-size", 16, "--epochs", 2, "--lr", 0.2, "-b", 32)
    ended = bitwright("train", "training.segmenter:Segmenter", "-d", "shapes", *options, *DENSE, "-o", tmp_path / "g")
    assert ended.status == 0, ended.err
    assert "mean IoU" in ended.out
    assert "pixel accuracy" in ended.out
    return tmp_path / "g"


def test_a_task_is_made_once(bitwright: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A factory of the user's may take its time, or keep count."""
    made: list[str] = []

    def load_counted(name: str) -> Task:
        made.append(name)
        return load_task(name)

    monkeypatch.setattr("bitwright.task.load_task", load_counted)
    small_graph().save(tmp_path / "net.graph")
    given = ("evaluate", tmp_path / "net.graph", "-d", "mnist-5k", "--task")
    for name in ("bitwright.task:classification", "classification"):
        made.clear()
        done = bitwright(*given, name)
        assert done.status == 0, done.err
        assert made == [name]


def test_a_segmenter_goes_through_every_command(graph: Path, bitwright: Command, tmp_path: Path) -> None:
    """Train, measure, train with quantization, lower, export, evaluate: the integers' figures are the file's."""
    checkpoint, integer, onnx, table = (tmp_path / name for name in ("c", "i", "o.onnx", "s.json"))

    def run(*arguments: object) -> str:
        ended = bitwright(*arguments)
        assert ended.status == 0, ended.err
        return ended.out

    run("sensitivity", graph, "-d", "shapes", *DENSE, "-n", 32, "--relative-error", 0.3, "-o", table)
    run("train", graph, "-d", "shapes", *DENSE, "-s", "W4A4", "-b", 32, "--lr", 0.02, "-o", checkpoint)
    again = ("-d", "shapes", "-s", "W4A4", "-n", 32, "--steps", 1, "-b", 8)
    assert "images of shapes" in run("reconstruct", graph, *again, "-o", tmp_path / "reconstructed")
    run("lower", checkpoint, "-o", integer)
    assert "mean IoU before making it safe" in run(
        "lower", checkpoint, "--target", "avx2", "-d", "shapes", *DENSE, "-o", tmp_path / "n"
    )
    run("export", integer, "-o", onnx)
    figures = [json.loads(run("evaluate", path, "-d", "shapes", *DENSE, "--json")) for path in (integer, onnx)]
    assert figures[0]["task"] == "dense-classification"
    assert figures[0]["mean_iou_percent"] == figures[1]["mean_iou_percent"] > 30
    compared = run("evaluate", integer, "-d", "shapes", "--task", "agreement", "--reference", graph)
    assert "relative error" in compared
    assert "same first guess" in compared

    settings = SensitivitySettings(relative_error=0.3)
    images, masks = shapes().calibration(32)
    loaded = Graph.load(graph)
    assert SensitivityTable.load(table) == measure_sensitivity(
        loaded, images, masks, settings, task=dense_classification(), data="shapes"
    )
    run("sensitivity", graph, "-d", "shapes", "--task", "agreement", "-n", 32, "--relative-error", 0.3, "-o", table)
    assert SensitivityTable.load(table) == measure_sensitivity(
        loaded, images, settings=settings, task=agreement(), data="shapes"
    )


@pytest.mark.slow
def test_a_detector_goes_through_every_command(
    bitwright: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three scales, one task of several outputs: the integers' figures are the file's, and one output can be looked at alone."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    graph, checkpoint, integer, onnx, table = (tmp_path / name for name in ("g", "c", "i", "o.onnx", "s.json"))
    boxes = ("-d", "digit-scenes:boxes", "--task", "detection")
    few = ("--data-fraction", 0.04, "-b", 20, "--no-validate")

    def run(*arguments: object) -> str:
        ended = bitwright(*arguments)
        assert ended.status == 0, ended.err
        return ended.out

    run("train", "scene_networks:Detector", *boxes, *few, "--image-size", 32, "--lr", 0.002, "-o", graph)
    run("sensitivity", graph, *boxes, "-n", 4, "--relative-error", 0.9, "--max-probes", 8, "-o", table)
    assert SensitivityTable.load(table).task == "detection"
    run("train", graph, *boxes, *few, "-s", "W4A4", "--lr", 0.001, "-o", checkpoint)
    run("reconstruct", graph, *boxes[:2], "-s", "W4A4", "-n", 8, "--steps", 0, "-o", tmp_path / "reconstructed")
    run("lower", checkpoint, "-o", integer)
    run("export", integer, "-o", onnx)
    agreed = ("-d", "digit-scenes:boxes", "--task", "agreement", "--reference", graph, "--json")
    figures = [[json.loads(run("evaluate", path, *given)) for path in (integer, onnx)] for given in (
        ("--json", *boxes), agreed, (*agreed, "--of-output", "coarse"),
    )]  # fmt: skip
    assert all(abs(made[key] - its[key]) < 1e-3 for made, its in figures for key in made if key.endswith("percent"))
    assert {"map_percent", "map50_percent"} < figures[0][0].keys()
    assert figures[1][0]["relative_error_percent"] != figures[2][0]["relative_error_percent"]
    assert figures[2][0]["what"].endswith("in integers, output 'coarse'")
    ended = bitwright("sensitivity", graph, *boxes, "--of-output", "finer", "-o", tmp_path / "never")
    assert "unknown output 'finer': did you mean 'fine'?" in ended.err


def test_tasks_that_do_not_fit_are_refused(graph: Path, bitwright: Command, tmp_path: Path) -> None:
    """In one line, before anything is computed or written."""
    output = tmp_path / "never"
    for arguments, message in (
        (
            ("evaluate", graph),
            "segmenter:Segmenter in float returns 3 x 16 x 16 for each image, but the task classification",
        ),
        (("sensitivity", graph, "-o", output), "use --task dense-classification"),
        (("train", graph, "-s", "W4A4", "-o", output), "use --task dense-classification"),
        (
            ("train", "training.segmenter:Segmenter", "--image-size", 16, "-o", output),
            "use --task dense-classification",
        ),
        (("evaluate", graph, "--task", "segmentation"), "unknown task 'segmentation'"),
        (("evaluate", graph, "--task", "agreement"), "give it with --reference GRAPH"),
        (
            ("evaluate", graph, *DENSE, "--reference", graph),
            "--reference would be ignored: the task dense-classification",
        ),
        (
            ("train", "training.segmenter:Segmenter", "--image-size", 16, "--task", "agreement", "-o", output),
            "float network",
        ),
    ):
        ended = bitwright(*arguments, "-d", "shapes")
        assert ended.status != 0
        assert message in ended.err.replace("\n", " "), ended.err
        assert "Traceback" not in ended.err
    assert not output.exists()
