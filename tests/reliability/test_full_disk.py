# SPDX-License-Identifier: MIT
"""On a disk that is full, every file that Bitwright writes is refused by its name, and nothing is left of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reliability.formats import write_all

SCRIPT = Path(__file__).parent / "full_disk.py"
MOUNTED = 'mount -t tmpfs -o size=4k none "$0" && : > "$0/there" && head -c 4096 /dev/zero > "$0/full" && exec "$@"'
"""A disk of one page, full, which only the process itself and its children see."""


def alone(*command: object) -> list[str]:
    """A command in a name space of its own, where it may mount."""
    return ["unshare", "--map-root-user", "--mount", *map(str, command)]


def can_mount(folder: Path) -> bool:
    """Whether this machine lets us."""
    if shutil.which("unshare") is None:
        return False
    tried = subprocess.run(alone("sh", "-c", MOUNTED, folder, "true"), capture_output=True, check=False)
    return tried.returncode == 0


@pytest.mark.slow
def test_a_full_disk_names_every_file(tmp_path: Path) -> None:
    """Graphs, checkpoints, integer models, tables, schemes, recipes, exports, plots, states: ENOSPC, from the kernel itself."""
    full, folder = tmp_path / "full", tmp_path / "files"
    full.mkdir()
    folder.mkdir()
    if not can_mount(full):
        pytest.skip("this machine lets nobody mount a small disk of its own (unshare)")
    write_all(folder)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    command = alone("sh", "-c", MOUNTED, full, sys.executable, SCRIPT, full, folder)
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert ended.stdout == "15\n"
