# SPDX-License-Identifier: MIT
"""Two processes that talk through gloo measure what one process measures, bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitwright.processes import any_process, from_main, in_turns, rank_and_size
from bitwright.sensitivity import METRICS, SensitivitySettings, SensitivityTable, measure_sensitivity
from sensitivity.problems import problem
from sensitivity.two_processes import OPTIONS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made."""
    found = tmp_path_factory.mktemp("processes")
    script = Path(__file__).parent / "two_processes.py"
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    commands = [[sys.executable, str(script), str(rank), "2", str(found)] for rank in range(2)]
    running = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
    try:
        errors = [process.communicate(timeout=120)[1] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(errors)
    return found


@pytest.mark.parametrize("metric", METRICS)
def test_two_processes_make_the_table_of_one(folder: Path, metric: str) -> None:
    """Equal, not close: the same pieces are added in the same order."""
    graph, images, labels = problem(40)
    expected = measure_sensitivity(graph, images, labels, SensitivitySettings(metric=metric, **OPTIONS))
    for rank in range(2):
        assert SensitivityTable.load(folder / f"{metric}.{rank}.json") == expected


def test_an_interrupted_measurement_goes_on_in_all_processes(folder: Path) -> None:
    """And in one process, what two began: the file is the same."""
    graph, images, labels = problem(40)
    expected = SensitivityTable.load(folder / "hutchinson_trace.0.json")
    for rank in range(2):
        assert SensitivityTable.load(folder / f"resumed.{rank}.json") == expected
    again = measure_sensitivity(
        graph,
        images,
        labels,
        SensitivitySettings(metric="hutchinson_trace", **OPTIONS),
        checkpoint=folder / "state",
        resume=True,
    )
    assert again == expected


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("refused", "belongs to another measurement: seed was 0, is 1"),
        ("infinite", "the loss is nan with layer 'stem' at 2 bits"),
    ],
)
def test_all_processes_end_alike(folder: Path, kind: str, message: str) -> None:
    """What one process cannot do, none waits for."""
    texts = [(folder / f"{kind}.{rank}.txt").read_text() for rank in range(2)]
    assert texts[0] == texts[1]
    assert message in texts[0]


def test_one_process_needs_nobody() -> None:
    """Without torch.distributed, tasks are done one by one, lazily."""
    done: list[int] = []

    def work(task: int) -> Tensor:
        done.append(task)
        return torch.tensor(float(task))

    assert rank_and_size() == (0, 1)
    for number, turn in enumerate(in_turns([3, 4, 5], work, lambda task: ())):
        assert len(done) == number + 1
        assert [task for task, _ in turn] == [done[-1]]
    assert (any_process(True), any_process(False)) == (True, False)
    assert from_main(lambda: "made") == "made"
