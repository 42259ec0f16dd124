# SPDX-License-Identifier: MIT
"""Processes that are killed with SIGKILL, and others, of another hash seed, that go on: the end is that of an unbroken run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from bitwright.training import EpochLines
from reliability.way import COMMANDS, TIMED, go

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """As in the processes that are started here: how many threads add up decides the last bit of a sum."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def begin(what: str, folder: Path, event: int, hash_seed: int) -> subprocess.Popen[str]:
    """A process that goes on with what is in `folder`, and kills itself at an event."""
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(hash_seed),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    script = Path(__file__).parent / "way.py"
    command = [sys.executable, str(script), what, str(folder), str(event)]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def ended(process: subprocess.Popen[str]) -> bool:
    """Whether it came to its end, rather than being killed; anything else is a failure."""
    output = process.communicate()[0]
    assert process.returncode in (0, -signal.SIGKILL), output
    return process.returncode == 0


def contents(folder: Path) -> dict[str, bytes]:
    """The files that two runs must have in common."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.endswith(TIMED)}


def finished(folder: Path) -> set[str]:
    """All names, but for files that were being written when the process was killed."""
    return {path.name for path in folder.iterdir() if not path.name.endswith(".tmp")}


def unbroken(what: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, bytes], list[float]]:
    """The files of a run in this process, and when its events were, in seconds from its beginning."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    events: list[float] = []
    start = time.monotonic()
    go(what, folder, lambda: events.append(time.monotonic() - start))
    return contents(folder), events


def test_killed_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while it trains in float, and again while it trains with quantization, it ends with the files of one process."""
    expected, _ = unbroken("way", tmp_path / "whole", monkeypatch)
    lines = {name: EpochLines(tmp_path / "whole" / f"{name}.metrics.jsonl") for name in ("float.graph", "checkpoint")}
    # Which epoch is the best one, a processor's sums decide.
    best = {f"{name}.best" for name, epochs in lines.items() if (epochs.best() or {})["epoch"] < 2}
    assert set(expected) == {*COMMANDS, *best}
    folder = tmp_path / "parted"
    folder.mkdir()
    assert not ended(begin("way", folder, 33, hash_seed=1))
    epoch = {"float.graph.best", "float.graph.metrics.jsonl"}
    assert finished(folder) == {"float.graph.state", *epoch}
    assert not ended(begin("way", folder, 120, hash_seed=2))
    assert finished(folder) == {
        *list(COMMANDS)[:3], *epoch, "checkpoint.state", "checkpoint.best", "checkpoint.metrics.jsonl",
    }  # fmt: skip
    assert ended(begin("way", folder, 0, hash_seed=3))
    assert contents(folder) == expected
    for name in ("float.graph", "checkpoint"):
        assert [line["epoch"] for line in EpochLines(Path(f"{name}.metrics.jsonl")).before(100)] == [1, 2]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["way", "demo"])
def test_killed_at_random(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fifteen kills, at random events and at random times: the files are those of an unbroken run."""
    expected, events = unbroken(what, tmp_path / "whole", monkeypatch)
    chance = random.Random(what)
    kills, rounds = 0, 0
    while kills < 15:
        folder = tmp_path / f"parted.{rounds}"
        folder.mkdir()
        hash_seed = 100 * rounds
        while True:
            hash_seed += 1
            if kills < 15 and chance.random() < 0.5:
                process = begin(what, folder, chance.randint(1, len(events)), hash_seed)
            else:
                process = begin(what, folder, 0, hash_seed)
                if kills < 15:
                    try:
                        process.wait(3 + chance.random() * (events[-1] + 6))
                    except subprocess.TimeoutExpired:
                        process.kill()
            if ended(process):
                break
            kills += 1
        assert contents(folder) == expected
        rounds += 1
    print(f"{what}: {kills} kills, {rounds} times to the end, {len(events)} events")
