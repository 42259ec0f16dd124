# SPDX-License-Identifier: MIT
"""The main job with a small network: every file is written, every logit equal, and an interrupted job goes on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from PIL import Image

from bitwright.allocation import Allocation
from bitwright.demo import DemoResult, DemoSettings, preset, run_demo
from bitwright.demo.job import file_names
from bitwright.errors import DataError
from bitwright.integer.reader import load_integer
from bitwright.progress import Progress, silent
from bitwright.training import TrainSettings

SCHEMES = ["W8A8", "size0.5", "bops0.5", "W4A4", "W2A2"]
SHORT = TrainSettings(epochs=1, data_fraction=0.1, batch_size=50)


SETTINGS = DemoSettings(
    model="cli.networks:small",
    image_size=28,
    baseline=replace(SHORT, learning_rate=0.1),
    quantized=SHORT,
    sensitivity_images=16,
    max_probes=10,
)
"""A job of seconds."""


class Interrupted(Exception):
    """What ends the job before its second scheme."""


def stop_at_second_scheme(task: str) -> AbstractContextManager[Progress]:
    """The stages until then."""
    if task == "fine-tuning size0.5":
        raise Interrupted
    return nullcontext(silent)


@dataclass(frozen=True)
class Job:
    """A job that was interrupted and went on: its folder, the files of its first part, and its result."""

    folder: Path
    kept: Mapping[str, bytes]
    result: DemoResult


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """The job, in two parts."""
    folder = tmp_path_factory.mktemp("job")
    with pytest.raises(Interrupted):
        run_demo(SETTINGS, folder, stage=stop_at_second_scheme)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    return Job(folder, kept, run_demo(SETTINGS, folder, resume=True))


def test_the_job(job: Job) -> None:
    """The table has a row for each scheme, all logits of all images are equal, and everything it names is on disk."""
    result, folder = job.result, job.folder
    rows = {row.scheme: row for row in result.table.rows}
    assert list(rows) == ["float", *SCHEMES]
    assert all((rows[name].exact_images, rows[name].images) == (1000, 1000) for name in SCHEMES)
    assert rows["W2A2"].size_mb < rows["W4A4"].size_mb <= rows["size0.5"].size_mb <= rows["W8A8"].size_mb
    written = json.loads((folder / "table.json").read_text())
    assert [row["scheme"] for row in written["rows"]] == list(rows)
    assert written["environment"]
    levels = [entry["level"] for entry in written["equality"]["W8A8"]]
    assert len(levels) == 4
    for row in result.table.rows[1:]:
        effect = written["certification"][row.scheme]
        assert row.score == effect["after"]["top1_percent"]
        assert 0 <= effect["differing"] < 0.01 * effect["elements"]
    assert {path.name for path in folder.iterdir()} <= {"settings.json", *file_names()}
    assert (folder / "table.md").read_text().count("\n") == 2 + len(rows)
    for name in ("bits.png", "frontier.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 400
    for name in SCHEMES:
        assert load_integer(folder / f"{name}.safetensors").scheme.name == name
    for use in Allocation.load(folder / "size0.5.allocation.json").uses:
        assert use.used_whole <= use.limit_whole


@pytest.mark.data
@pytest.mark.slow
def test_the_job_on_fashion_mnist(tmp_path: Path) -> None:
    """The same on 10,000 held-out pictures of clothes."""
    found = preset("fashion-mnist", epochs=1)
    short = replace(
        found, model=SETTINGS.model, baseline=SETTINGS.baseline, quantized=SETTINGS.quantized, image_size=28
    )
    result = run_demo(short, tmp_path)
    assert all((row.exact_images, row.images) == (10_000, 10_000) for row in result.table.rows[1:])


def test_an_interrupted_job_goes_on(job: Job) -> None:
    """What was done before an interruption is kept as it is; other settings are refused."""
    assert "W8A8.safetensors" in job.kept
    assert "size0.5.safetensors" not in job.kept
    assert all((job.folder / name).read_bytes() == data for name, data in job.kept.items() if name != "frontier.json")
    with pytest.raises(DataError, match=r"holds a job with other settings: seed was 0, is 1\. Choose"):
        run_demo(replace(SETTINGS, seed=1), job.folder, resume=True)


def test_presets() -> None:
    """Epochs asked for are the baseline's; the schemes get a third."""
    chosen = preset("fashion-mnist:/somewhere", epochs=9, seed=3)
    assert (chosen.baseline.epochs, chosen.quantized.epochs) == (9, 3)
    assert chosen.seed == chosen.baseline.seed == chosen.quantized.seed == 3
    assert preset("fashion-mnist").baseline != preset("mnist-5k").baseline
