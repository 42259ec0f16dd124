# SPDX-License-Identifier: MIT
"""The program however it is begun: as a module, and by a shell that completes its words."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


def begun(*words: str) -> subprocess.CompletedProcess[str]:
    """`python -m bitwright WORDS`."""
    command = [sys.executable, "-m", "bitwright", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_as_a_module() -> None:
    """It is the program of that name, exit status and all."""
    right, wrong = begun("--version"), begun("frobnicate")
    assert right.returncode == 0
    assert right.stdout.startswith("bitwright ")
    assert wrong.returncode == 2
    assert wrong.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("written", "completed"), [("bitwright eval", {"evaluate"}), ("bitwright zoo re", {"reproduce"})]
)
def test_a_shell_completes_commands(written: str, completed: set[str]) -> None:
    """As bash asks the installed program for it."""
    program = "import sys; sys.argv[0] = 'bitwright'; from bitwright.cli import main; main()"
    asked = {"COMP_WORDS": written, "COMP_CWORD": str(len(written.split()) - 1), "_BITWRIGHT_COMPLETE": "complete_bash"}
    found = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | asked,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert set(found.stdout.split()) == completed, found.stderr
