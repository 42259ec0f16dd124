# SPDX-License-Identifier: MIT
"""Two processes of torchrun train one model, and go on after one of them was killed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bitwright.integer.reader import load_integer
from bitwright.training import EpochLines
from reliability.ranks import KINDS
from training.small import small_graph

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL on Windows"),
]
HERE = Path(__file__).parent


def torchrun(*arguments: object, cwd: Path) -> str:
    """Two processes; what they print."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["--max-restarts", "2", *map(str, arguments)]
    running = subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        printed = running.communicate(timeout=280)[0]
    finally:
        running.terminate()  # upon which torchrun ends its processes, too
    assert running.wait() == 0, printed
    return printed


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes made without an interruption."""
    folder = tmp_path_factory.mktemp("unbroken")
    torchrun(HERE / "ranks.py", folder, 0, cwd=folder)
    return folder


NAMES = ["float", *(f"{ranges}.{free_norm}" for ranges, free_norm in KINDS)]


@pytest.mark.parametrize("name", NAMES)
def test_ranks_end_equal(unbroken: Path, name: str) -> None:
    """Weights, scales, ranges and statistics of the two processes are the same bytes."""
    assert (unbroken / f"{name}.0").read_bytes() == (unbroken / f"{name}.1").read_bytes()


@pytest.mark.parametrize("step", [7, 18, 29, 35])
def test_a_killed_rank_goes_on(unbroken: Path, tmp_path: Path, step: int) -> None:
    """Killed in one of the four trainings, restarted by torchrun, both processes end with the bytes of an unbroken run."""
    torchrun(HERE / "ranks.py", tmp_path, step, cwd=tmp_path)
    for name in NAMES:
        for rank in range(2):
            assert (tmp_path / f"{name}.{rank}").read_bytes() == (unbroken / f"{name}.0").read_bytes()


def test_the_command_under_torchrun(tmp_path: Path) -> None:
    """`bitwright train` in float and with quantization, in two processes: one writes and prints, and its file lowers."""
    common = ["-d", "mnist-5k", "--data-fraction", "0.1", "--batch-size", "50", "--epochs", "2", "--resume"]
    train = ["-m", "bitwright", "train"]
    printed = torchrun(*train, "cli.networks:small", "--image-size", "28", *common, "-o", "float.graph", cwd=tmp_path)
    assert printed.count("wrote float.graph") == printed.count("top-1") == 1
    assert "Warning" not in printed
    printed = torchrun(*train, "float.graph", "--scheme", "W4A4", *common, "-o", "checkpoint", cwd=tmp_path)
    assert printed.count("wrote checkpoint") == 1
    assert "Warning" not in printed
    from bitwright.cli import main

    with pytest.raises(SystemExit, match="0"):
        main(["lower", str(tmp_path / "checkpoint"), "-o", str(tmp_path / "integer")])
    assert load_integer(tmp_path / "integer").scheme.name == "W4A4"
    assert {path.name for path in tmp_path.iterdir()} - {"float.graph.best", "checkpoint.best"} == {
        "float.graph", "float.graph.metrics.jsonl", "checkpoint", "checkpoint.metrics.jsonl", "integer",
    }  # fmt: skip
    for name in ("float.graph", "checkpoint"):
        assert [line["epoch"] for line in EpochLines(tmp_path / f"{name}.metrics.jsonl").before(100)] == [1, 2]


def test_one_process_makes_images_for_all(tmp_path: Path) -> None:
    """`--data none`: it alone says so and keeps them, and the table is that of one process."""
    small_graph().save(tmp_path / "net.graph")
    given = ("sensitivity", "net.graph", "--data", "none", "--task", "agreement", "-n", "4", "-o")
    printed = torchrun("-m", "bitwright", *given, "table.json", cwd=tmp_path)
    for words in ("no data: 4 images were made", "making images for small", "wrote table.json"):
        assert printed.count(words) == 1, printed
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    alone = [sys.executable, "-m", "bitwright", *given, "alone.json"]
    subprocess.run(alone, cwd=tmp_path, env=environment, check=True, capture_output=True, timeout=280)
    assert {path.name for path in tmp_path.iterdir()} == {"net.graph", "table.json", "alone.json"}
    assert (tmp_path / "table.json").read_bytes() == (tmp_path / "alone.json").read_bytes()
