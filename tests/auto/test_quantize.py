# SPDX-License-Identifier: MIT
"""From a trained network to a file within the drop that was asked for: each figure counted once more here."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.auto import AutoResult, AutoSettings, auto_quantize, quantize
from bitwright.auto.images import AutoImages
from bitwright.benchmark import load_engine
from bitwright.data import ImageData, subset
from bitwright.errors import BudgetError, DataError, ExportError, FileFormatError, TaskError
from bitwright.graph import FloatModel, Graph, capture, layer_costs, scheme_cost
from bitwright.integer import load_integer, logits, run
from bitwright.progress import Progress, silent
from bitwright.scheme import Budget, Precision, Scheme
from bitwright.training import Distillation, TrainSettings, fit
from training.small import SHAPE, SmallResidual, digits

SETTINGS = AutoSettings(max_drop=0.01, points=6, calibration_images=128, sensitivity_images=32)


@cache
def network() -> nn.Module:
    """The small network, trained for a second."""
    torch.manual_seed(0)
    model = SmallResidual()
    fit(model, digits(), TrainSettings(epochs=5, learning_rate=0.1, seed=0))
    return model.eval()


@cache
def graph() -> Graph:
    """The same, captured."""
    return capture(network(), SHAPE, name="small")


@cache
def data() -> ImageData:
    """The digits, with fewer to measure on."""
    return replace(digits(), test=subset(digits().test, 0.4))


def batches(images: ImageData, split: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """As a user's own loader gives them."""
    return list(images.batches(split, 100))


TOLD: dict[str, list[tuple[int, int]]] = {}
"""What each stage of the fixture said: done, and of how many."""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, AutoResult]:
    """The folder of a finished search, and its result."""
    folder = tmp_path_factory.mktemp("auto")

    @contextmanager
    def stage(task: str) -> Iterator[Progress]:
        yield lambda done, total, /, **_: TOLD.setdefault(task, []).append((done, total))

    return folder, auto_quantize(graph(), data(), folder / "net.onnx", SETTINGS, stage=stage)


def test_the_drop_that_was_asked_for(found: tuple[Path, AutoResult]) -> None:
    """The file's own logits are within it, and the next cheaper scheme is not; all counted again from the files."""
    folder, result = found
    images, labels = (torch.cat(parts) for parts in zip(*batches(data(), "test"), strict=True))
    with torch.no_grad():
        whole = FloatModel(graph()).eval()(images).argmax(1) == labels
    integers = load_engine("onnxruntime", folder / "net.onnx")(images.numpy())
    model = load_integer(folder / "net.integer")
    assert (run(model, images).numpy() == integers).all()
    right = (torch.from_numpy(integers) * torch.from_numpy(model.outputs["logits"].unit)).argmax(1) == labels
    assert result.float_measured.right == int(whole.sum())
    assert result.measured.right == int(right.sum())
    assert result.measured.drop == pytest.approx((int(whole.sum()) - int(right.sum())) / len(labels))
    assert result.measured.drop <= 0.01
    assert result.cheaper is not None
    assert result.cheaper.drop > 0.01
    assert result.equal == (len(labels), len(labels))
    assert Scheme.load(folder / "net.yaml") == result.scheme == model.scheme
    assert result.cost == scheme_cost(layer_costs(graph()), result.scheme)
    written = json.loads((folder / "net.json").read_text())
    assert written["integers"]["right"] == result.measured.right
    assert len(written["tried"]) == len(result.tried) == len({(way, name) for way, name, _ in result.tried})
    assert not list(folder.glob("*state*"))
    assert {path.name for path in folder.iterdir()} == {path.name for path in result.files.values()}


@pytest.mark.usefixtures("found")
def test_every_stage_knows_how_much_is_left() -> None:
    """One that is told about more than once does not take each time for the end."""
    assert any(task.startswith("comparing") for task in TOLD)
    for task, told in TOLD.items():
        ends = [done == total for done, total in told]
        assert not any(ends[:-1][: len(ends) // 2]), task


def test_batches_of_ones_own(tmp_path: Path) -> None:
    """A module and two lists of batches, for another engine, under a budget: the same integers as from the data set."""
    settings = replace(SETTINGS, max_drop=None, budgets=(Budget.parse("size0.4"),))
    observed = [data().calibration(128)]
    result = auto_quantize(network(), (observed, batches(data(), "test")), tmp_path / "net.onnx", settings)
    named = auto_quantize(graph(), data(), tmp_path / "named.onnx", settings)
    assert result.cheaper is None
    assert result.measured == named.measured
    assert (tmp_path / "net.yaml").read_bytes() == (tmp_path / "named.yaml").read_bytes()
    half = scheme_cost(layer_costs(graph()), Scheme.load(tmp_path / "net.yaml"))
    assert half.size_mb < result.float_cost.size_mb / 4


def test_images_without_labels(tmp_path: Path) -> None:
    """The float network is right by definition, and the drop is how often the integers disagree with it."""
    held_out = [images for images, _ in batches(data(), "test")]
    settings = replace(SETTINGS, max_drop=None, budgets=(Budget.parse("size0.1"),))
    result = auto_quantize(graph(), ([data().calibration(128)], held_out), tmp_path / "net.onnx", settings)
    images = torch.cat(held_out)
    with torch.no_grad():
        whole = FloatModel(graph()).eval()(images).argmax(1)
    differing = int((logits(result.model, images).argmax(1) != whole).sum())
    assert not result.labelled
    assert result.float_measured.right == len(images)
    assert result.measured.lost == differing > 0
    assert result.measured.gained == 0


def test_images_in_another_order(tmp_path: Path) -> None:
    """Two networks are compared image by image: a loader that shuffles is refused, whatever its accuracies are."""
    shuffled = data().batches("test", 100, shuffle=True)
    settings = replace(SETTINGS, max_drop=None, budgets=(Budget.parse("size0.4"),))
    with pytest.raises(
        DataError, match="in the same order in every pass, got another: give a loader with shuffle=False"
    ):
        auto_quantize(graph(), ([data().calibration(128)], shuffled), tmp_path / "net.onnx", settings)
    assert not (tmp_path / "net.onnx").exists()


def test_the_seed_chooses_the_images_that_are_observed() -> None:
    """Of a data set as of batches."""
    given = {seed: AutoImages.of(data(), 20, seed).given for seed in (0, 1)}
    assert all(torch.equal(images, data().calibration(20, seed)[0]) for seed, images in given.items())
    assert not torch.equal(given[0], given[1])


def test_out_of_reach(tmp_path: Path) -> None:
    """It says how near the best came, and leaves no file of an engine."""
    two_bits = replace(SETTINGS, max_drop=0.0, choices=(Precision(2, 2),), points=3)
    with pytest.raises(BudgetError, match=r"loses at most 0\.00 points, got \d+\.\d\d ± \d\.\d\d from the best of 1"):
        auto_quantize(graph(), data(), tmp_path / "net.onnx", two_bits)
    assert not (tmp_path / "net.onnx").exists()


def test_what_training_reaches(tmp_path: Path) -> None:
    """Schemes are fine-tuned where none is accurate enough as it is."""
    settings = replace(SETTINGS, max_drop=0.025, choices=(Precision(2, 2), Precision(3, 2)), points=3)
    training = TrainSettings(epochs=1, learning_rate=0.02, data_fraction=0.5)
    result = auto_quantize(graph(), data(), tmp_path / "net.onnx", settings, training=training)
    assert result.way == "fine-tuned"
    assert {way for way, _, _ in result.tried} == {"calibrated", "fine-tuned"}
    assert result.measured.drop <= 0.025 < min(found.drop for way, _, found in result.tried if way == "calibrated")


@pytest.mark.parametrize("stop", ["tracing", "making", "exporting"])
def test_interrupted_it_goes_on(stop: str, found: tuple[Path, AutoResult], tmp_path: Path) -> None:
    """With the same files in the end; what was measured is not measured again, and a new start does not write over it."""
    seen: list[str] = []

    @contextmanager
    def stage(task: str) -> Iterator[Progress]:
        if task.startswith(stop) and (stop != "making" or len(seen) > 8):
            raise KeyboardInterrupt
        seen.append(task)
        yield silent

    with pytest.raises(KeyboardInterrupt):
        auto_quantize(graph(), data(), tmp_path / "net.onnx", SETTINGS, stage=stage)
    if (tmp_path / "net.state").exists():
        with pytest.raises(FileFormatError, match="give resume=True to go on with this search"):
            auto_quantize(graph(), data(), tmp_path / "net.onnx", SETTINGS)
        with pytest.raises(FileFormatError, match=r"max_drop was 0\.01, is 0\.5"):
            auto_quantize(graph(), data(), tmp_path / "net.onnx", replace(SETTINGS, max_drop=0.5), resume=True)
    auto_quantize(graph(), data(), tmp_path / "net.onnx", SETTINGS, resume=True)
    for kind in ("yaml", "integer", "sensitivities.json"):
        assert (tmp_path / f"net.{kind}").read_bytes() == (found[0] / f"net.{kind}").read_bytes()


def test_a_search_goes_on_only_where_training_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the same teacher, of the same weight; where nothing is trained, nobody teaches."""
    training = TrainSettings(epochs=1, data_fraction=0.01)
    one = replace(SETTINGS, max_drop=None, budgets=(Budget("size", 1.0),), choices=(Precision(4, 4),))

    @contextmanager
    def stage(task: str) -> Iterator[Progress]:
        if task.startswith("exporting"):
            raise KeyboardInterrupt
        yield silent

    for way, taught in ((None, False), (training, True)):
        path = tmp_path / f"{taught}.onnx"
        given = {"training": way, "stage": stage}
        with pytest.raises(KeyboardInterrupt):
            auto_quantize(graph(), data(), path, one, **given)
        with monkeypatch.context() as patched:
            patched.setattr(quantize, "Distillation", partial(Distillation, alpha=0.25))
            with pytest.raises(FileFormatError if taught else KeyboardInterrupt) as stopped:
                auto_quantize(graph(), data(), path, one, resume=True, **given)
        assert not taught or "another search: distillation.alpha was 0.5, is 0.25" in str(stopped.value)
        with pytest.raises(KeyboardInterrupt):
            auto_quantize(graph(), data(), path, one, resume=True, **given)


def test_what_is_refused(tmp_path: Path) -> None:
    """Before anything is measured."""
    with pytest.raises(ExportError, match=r"expected a file whose name ends in one of \.\w+, "):
        auto_quantize(graph(), data(), tmp_path / "net.bin")
    with pytest.raises(DataError, match="expected a data set, or a pair"):
        auto_quantize(graph(), batches(data(), "test"), tmp_path / "net.onnx")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least one batch of images to observe"):
        auto_quantize(graph(), ([], []), tmp_path / "net.onnx")
    with pytest.raises(ExportError, match=r"ends in one of \.xml, got"):
        auto_quantize(graph(), data(), tmp_path / "net.onnx", engine="openvino")
    with pytest.raises(DataError, match="gone through again, got an iterator"):
        auto_quantize(graph(), (batches(data(), "test"), iter(batches(data(), "test"))), tmp_path / "net.onnx")
    segmenter = capture(nn.Conv2d(1, 3, 3), SHAPE, name="maps")
    with pytest.raises(TaskError, match=r"expected a classifier, .* got maps, which returns logits of 3 x 26 x 26"):
        auto_quantize(segmenter, data(), tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
    for wrong in (
        {"max_drop": 1.5},
        {"max_drop": None},
        {"cost": "time"},
        {"cost": "bops", "max_drop": None, "budgets": (Budget("size", 1.0),)},
    ):
        with pytest.raises(BudgetError):
            AutoSettings(**wrong)
