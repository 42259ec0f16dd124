# SPDX-License-Identifier: MIT
"""What a terminal shows while work goes on."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.console import Console

from bitwright.cli import console


def test_a_bar_says_which_stage_it_is_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage is named beside its own count; one without a count still shows the time."""
    screen = StringIO()
    monkeypatch.setattr(console, "stderr", Console(file=screen, force_terminal=True, width=120))
    with console.bar("verifying net") as progress:
        progress.stage("exporting for tvm")
        progress(3, 7)
        progress._drawn.refresh()
        progress.stage("comparing")
        progress._drawn.refresh()
        (drawn,) = progress._drawn.tasks
        assert (drawn.completed, drawn.total, drawn.description) == (0, None, "verifying net: comparing")
        assert drawn.elapsed is not None
    shown = screen.getvalue()
    assert "verifying net: exporting for tvm" in shown
    assert "3/7" in shown
    assert "0/?" in shown
    assert "0:00:0" in shown
    assert re.search(r"verifying net: \d+\.\d s", shown)
