# SPDX-License-Identifier: MIT
"""A measurement that was killed goes on, and ends with the table of one that was not, bit for bit."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bitwright.errors import FileFormatError
from bitwright.graph import state_file
from bitwright.progress import Progress, silent
from bitwright.sensitivity import (
    METRICS,
    Checkpoint,
    SensitivitySettings,
    SensitivityTable,
    checkpoint,
    measure_sensitivity,
    top_eigenvalue,
)
from sensitivity.problems import problem

OPTIONS: dict[str, Any] = {"relative_error": 0.2, "micro_batch": 6, "bits": [2, 4]}


class Killed(BaseException):
    """As an interrupt: no error that anybody handles."""


def measure(
    metric: str, path: Path | None = None, resume: bool = False, progress: Progress = silent, **options: Any
) -> SensitivityTable:
    """A table; gradient norms are computed for all pairs, so that there is something to interrupt."""
    graph, images, labels = problem(150)
    if metric in ("gauss_newton_trace", "empirical_fisher"):
        options = {"relative_error": 0.0, **options}
    settings = SensitivitySettings(metric=metric, **{**OPTIONS, **options})
    return measure_sensitivity(
        graph, images[:60], labels[:60], settings, checkpoint=path, resume=resume, progress=progress
    )


@pytest.fixture(params=sorted(METRICS))
def metric(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each metric; eigenvalues are kept by groups of layers, of which this small network would be one."""
    monkeypatch.setattr(sys.modules[top_eigenvalue.__module__], "_GROUP", 1)
    return request.param


def calls(metric: str) -> int:
    """How often a measurement tells its progress."""
    seen = []
    measure(metric, progress=lambda done, total, /, **figures: seen.append(done))
    return len(seen)


def killing(after: int) -> Callable[..., None]:
    """A progress that interrupts the measurement at one of its calls."""
    left = [after]

    def progress(done: int, total: int, /, **figures: float) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise Killed

    return progress


def test_an_interrupted_measurement_goes_on(tmp_path: Path, metric: str) -> None:
    """Interrupted twice, a third run makes what is left, and the table is the very one."""
    path = tmp_path / "state"
    expected, whole = measure(metric), calls(metric)
    for _ in range(2):
        with pytest.raises(Killed):
            measure(metric, path, resume=True, progress=killing((whole - 1) // 3))
    seen: list[tuple[int, int]] = []
    resumed = measure(metric, path, resume=True, progress=lambda done, total, /, **figures: seen.append((done, total)))
    assert resumed == expected
    assert 0 < len(seen) < whole
    assert seen[-1][0] == seen[-1][1]
    assert measure(metric, path, resume=True, progress=killing(0)) == expected  # nothing is left to do


def test_a_killed_measurement_goes_on(tmp_path: Path, metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the file holds at a moment without warning is enough."""
    monkeypatch.setattr(checkpoint, "SECONDS", 0.0)
    path, copy = tmp_path / "state", tmp_path / "copy"
    whole = calls(metric)
    count = 0

    def progress(done: int, total: int, /, **figures: float) -> None:
        nonlocal count
        count += 1
        if path.exists() and count <= whole // 2:
            shutil.copy(path, copy)

    expected = measure(metric, path, progress=progress)
    seen = []
    resumed = measure(metric, copy, resume=True, progress=lambda done, total, /, **figures: seen.append(done))
    assert resumed == expected
    assert 0 < len(seen) < whole


def test_no_more_than_every_few_seconds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an interruption, and before the time has come, the file is written once, at the end."""
    written = []
    monkeypatch.setattr(checkpoint, "SECONDS", 600.0)  # on a busy machine, five are over before it is done
    monkeypatch.setattr(state_file, "write_bytes", lambda path, data: written.append(path))
    measure("hutchinson_trace", tmp_path / "state")
    assert written == [tmp_path / "state"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"micro_batch": 10}, "micro_batch was 6, is 10"),
        ({"seed": 1, "relative_error": 0.5}, "relative_error was 0.0, is 0.5; seed was 0, is 1"),
        ({"bits": [2, 3]}, r"bits was \[2, 4\], is \[2, 3\]"),
        ({"metric": "empirical_fisher"}, "metric was gauss_newton_trace, is empirical_fisher"),
    ],
)
def test_other_settings_are_refused_by_name(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    """A checkpoint of other settings is neither used nor overwritten."""
    path = tmp_path / "state"
    measure("gauss_newton_trace", path)
    before = path.read_bytes()
    with pytest.raises(FileFormatError, match=rf"'{path}' belongs to another measurement: {message}. Give what"):
        measure(**{"metric": "gauss_newton_trace", "path": path, "resume": True, **change})
    assert path.read_bytes() == before


def test_other_networks_and_images_are_refused(tmp_path: Path) -> None:
    """One weight, or one pixel, is enough."""
    path = tmp_path / "state"
    graph, images, labels = problem()
    measure_sensitivity(graph, images, labels, checkpoint=path)
    other = images.clone()
    other[0, 0, 0, 0] += 1
    with pytest.raises(FileFormatError, match="another measurement: images differs"):
        measure_sensitivity(graph, other, labels, checkpoint=path, resume=True)
    weight = graph.parameters["fc.weight"].clone()
    weight[0, 0] += 1
    changed = graph.with_parameters({**graph.parameters, "fc.weight": weight})
    with pytest.raises(FileFormatError, match="another measurement: network differs"):
        measure_sensitivity(changed, images, labels, checkpoint=path, resume=True)


def test_files(tmp_path: Path) -> None:
    """A missing file is a beginning, a damaged one an error; without `resume` a former one is left alone."""
    path = tmp_path / "state"
    first = measure("gauss_newton_trace", path, resume=True)
    damaged = path.read_bytes()[:-9]
    path.write_bytes(damaged)
    with pytest.raises(FileFormatError, match="is no complete safetensors file"):
        measure("gauss_newton_trace", path, resume=True)
    with pytest.raises(FileFormatError, match="give resume=True to go on with this measurement, or delete it"):
        measure("gauss_newton_trace", path)
    assert path.read_bytes() == damaged
    path.unlink()
    assert measure("gauss_newton_trace", path) == first
    assert measure("gauss_newton_trace", path, resume=True, progress=killing(0)) == first


def test_parts_that_are_not_reached_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that is killed again before it comes to the second estimator keeps what that one had."""
    path = tmp_path / "state"
    with Checkpoint(path, {}) as kept:
        for name in ("first", "second"):
            kept.part(name).keep(lambda: {"x": torch.ones(1)})
    with Checkpoint(path, {}, resume=True) as kept:
        kept.part("first").keep(lambda: {"x": torch.zeros(1)})
    found = Checkpoint(path, {}, resume=True)
    assert found.part("first").found("x", 1) == 0
    assert found.part("second").found("x", 1) == 1
    assert found.part("third").found("x", 1) is None
    for other in ((2,), (1, 1), (None, None)):
        with pytest.raises(
            FileFormatError, match=rf"'{path}' holds no results that this version can read: 'x' is torch.float32"
        ):
            found.part("first").found("x", *other)
    with pytest.raises(FileFormatError, match="expected int64 of shape any"):
        found.part("first").found("x", None, integers=True)
