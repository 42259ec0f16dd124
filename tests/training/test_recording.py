# SPDX-License-Identifier: MIT
"""What is kept of every epoch: a line each, however often the training is interrupted, and the best model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bitwright.cli.epochs import Followed, best_of, lines_of
from bitwright.errors import FileFormatError, MissingLibraryError, UnknownNameError
from bitwright.task import Scores, classification
from bitwright.training import (
    TRACKERS,
    Checkpointing,
    EpochLines,
    Judged,
    Recorder,
    TrainSettings,
    fine_tune_layerwise,
    fit,
    require_tracker,
    tracked,
)
from bitwright.training.settings import Epoch, Step
from training.small import digits, small_graph, small_quantized

TIMES = ("seconds", "images_per_second")
SETTINGS = TrainSettings(epochs=3, data_fraction=0.05, batch_size=50, learning_rate=0.1)


class Stop(Exception):
    """Work is interrupted."""


def untimed(path: Path) -> list[dict[str, Any]]:
    """The lines, without what no two runs have in common."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert all(line["seconds"] > 0 and line["images_per_second"] > 0 for line in lines)
    return [{key: value for key, value in line.items() if key not in TIMES} for line in lines]


def scored(percent: float) -> Scores:
    """Of some classifier."""
    return Scores(100, classification().scores[:1], (percent,))


def trained(path: Path, stop: int | None = None) -> None:
    """Train a small network, or go on, and stop after so many steps."""

    def progress(done: int, total: int, /, **figures: float) -> None:
        if done == stop:
            raise Stop

    def judge(model: nn.Module) -> Judged:
        value = float(sum(parameter.detach().sum() for parameter in model.parameters()))
        return Judged(scored(value), lambda: torch.save(value, path.with_suffix(".best")))

    model = small_quantized("W4A4")
    recorder = Recorder(EpochLines(path), SETTINGS, judge=judge)
    kept = Checkpointing(path.with_suffix(".state"), steps=2, resume=True)
    fit(model, digits(), SETTINGS, checkpoint=kept, hooks=recorder.hooks(), progress=progress)


def test_lines_of_an_interrupted_training(tmp_path: Path) -> None:
    """Stopped twice, within epochs and between lines and states, it ends with the lines and the best of an unbroken one."""
    trained(tmp_path / "whole.jsonl")
    expected = untimed(tmp_path / "whole.jsonl")
    assert [line["epoch"] for line in expected] == [1, 2, 3]
    path = tmp_path / "parted.jsonl"
    steps = 4  # in an epoch
    for stop in (steps + 1, 2 * steps):
        with pytest.raises(Stop):
            trained(path, stop)
    trained(path)
    assert untimed(path) == expected
    assert torch.load(tmp_path / "parted.best") == torch.load(tmp_path / "whole.best")
    rates = [line["lr"] for line in expected]
    assert rates == [SETTINGS.rate(steps * epoch - 1, steps) for epoch in range(1, 4)]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=12), st.data())
def test_no_epoch_twice(epochs: list[int], data: st.DataObject) -> None:
    """Whatever epoch comes next, lines are of rising epochs, and the last is the one that was written last."""
    with pytest.MonkeyPatch.context() as patch:
        held: list[str] = []
        patch.setattr("bitwright.training.recording.write_text", lambda path, text: held.append(text))
        patch.setattr("bitwright.training.recording.read_text", lambda path: held[-1])
        lines = EpochLines(SimpleNamespace(exists=lambda: bool(held)))  # type: ignore[arg-type]
        for number, epoch in enumerate(epochs):
            lines.write({"epoch": epoch, "number": number})
            found = [json.loads(line) for line in held[-1].splitlines()]
            numbers = [entry["epoch"] for entry in found]
            assert numbers == sorted(set(numbers))
            assert found[-1] == {"epoch": epoch, "number": number}


@given(st.lists(st.sampled_from([10.0, 50.0, 90.0, float("nan")]), min_size=1, max_size=6))
def test_the_best_is_kept(found: list[float]) -> None:
    """The last of the highest scores is what was written last; a score that is no number is never the best, and null."""
    kept: list[int] = []
    entries: list[dict[str, Any]] = []
    lines = SimpleNamespace(
        write=entries.append,
        best=lambda before: next((line for line in reversed(entries) if line["best"]), None),
    )
    scores = iter(found)
    judge = lambda model: Judged(scored(next(scores)), lambda: kept.append(len(entries)))  # noqa: E731
    hooks = Recorder(lines, SETTINGS, judge=judge).hooks()  # type: ignore[arg-type]
    for number in range(len(found)):
        hooks.before_epoch(number)
        hooks.after_step(Step(number + 1, number, 0, 1, 1.0, torch.zeros(2, 3), torch.zeros(2), 0.0, 0.5))
        hooks.after_epoch(Epoch(number, 1.0, {}, nn.Identity()))
    numbers = [value for value in found if value == value]
    if not numbers:
        assert not kept
        return
    assert found[kept[-1]] == max(numbers)
    assert max(numbers) not in found[kept[-1] + 1 :]
    assert [entry["images_per_second"] for entry in entries] == [4.0] * len(found)
    json.dumps(entries, allow_nan=False)


def test_stages_count_on(tmp_path: Path) -> None:
    """Of layerwise training each epoch of each stage has its line."""
    settings = TrainSettings(epochs=2, data_fraction=0.01, batch_size=50)
    schemes = [small_quantized(bits).plan.scheme for bits in ("W8A8", "W4A4")]
    lines = EpochLines(tmp_path / "lines.jsonl")
    recorder = Recorder(lines, settings)
    fine_tune_layerwise(small_graph(), schemes, digits(), settings, hooks=recorder.hooks(), calibration_images=64)
    assert [line["epoch"] for line in untimed(lines.path)] == [1, 2, 3, 4]
    assert lines.best() is None


@pytest.mark.parametrize("text", ["[]\n", "{}\n", "what a pity\n", '{"epoch": "1"}\n'])
def test_another_file_is_left_alone(text: str, tmp_path: Path) -> None:
    """What holds no lines of epochs is not overwritten."""
    path = tmp_path / "other"
    path.write_text(text)
    with pytest.raises(FileFormatError, match="other"):
        EpochLines(path).write({"epoch": 2})
    assert path.read_text() == text


def test_trackers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is unknown or missing is refused in a line that says what to do."""
    with pytest.raises(UnknownNameError, match="did you mean 'wandb'"):
        require_tracker("wand")
    monkeypatch.setattr("bitwright.extras.find_spec", lambda name: None)
    for name in TRACKERS:
        with pytest.raises(
            MissingLibraryError, match=rf"{name}, which is not installed: pip install 'bitwright\[{name}\]'"
        ):
            require_tracker(name)
    with tracked(None, "run", tmp_path, {}) as log:
        log({"loss": 1.0}, 1)
    assert not list(tmp_path.iterdir())


def test_tensorboard_reads_what_was_tracked(tmp_path: Path) -> None:
    """Figures of epochs arrive as they were, but for those that are none."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with tracked("tensorboard", "run", tmp_path, vars(SETTINGS)) as log:
        log({"loss": 0.5, "top1_percent": None}, 1)
        log({"loss": 0.25, "top1_percent": 90.0}, 2)
    events = accumulator.EventAccumulator(str(tmp_path / "run")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 0.5), (2, 0.25)]
    assert [(event.step, event.value) for event in events.Scalars("top1_percent")] == [(2, 90.0)]


@pytest.mark.parametrize("epochs", [0, 3])
def test_what_a_former_training_left(epochs: int, tmp_path: Path) -> None:
    """A best model that is not of this training, or is its last, does not stay; nor do lines where no epoch was trained."""
    followed = Followed(tmp_path / "net.checkpoint")
    lines = EpochLines(lines_of(followed.output))
    for number in (1, 2, 3):
        lines.write({"epoch": number, "best": True})
    best_of(followed.output).touch()
    assert followed.best(epochs) is None
    assert not best_of(followed.output).exists()
    assert lines.path.exists() == bool(epochs)
