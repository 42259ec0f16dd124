# SPDX-License-Identifier: MIT
"""What a terminal shows while work goes on."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.console import Console

from bitwright.cli import console, main
from bitwright.cli.announced import announce
from bitwright.errors import UnknownNameError


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


def test_a_log_tells_how_far_the_work_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal: a line every half minute with count, figures and time left, and none for what is short."""
    screen, now = StringIO(), [0.0]
    monkeypatch.setattr(console, "stderr", Console(file=screen, force_terminal=False, width=40))
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    with console.bar("training net") as progress:
        for done in range(1, 13):
            now[0] += 10
            progress(done, 120, loss=2 / done)
        progress.stage("settling")
        now[0] += 40
        progress.stage("writing")
    with console.bar("short"):
        now[0] += 1
    assert screen.getvalue().splitlines() == [
        "training net: 3 of 120, loss 0.6667, 0:19:30 left",
        "training net: 6 of 120, loss 0.3333, 0:19:00 left",
        "training net: 9 of 120, loss 0.2222, 0:18:30 left",
        "training net: 12 of 120, loss 0.1667, 0:18:00 left",
        "training net: writing ...",
        "training net: 160.0 s",
        "short: 1.0 s",
    ]


def test_what_is_announced_waits_for_the_work(capsys: pytest.CaptureFixture[str]) -> None:
    """It is said when something was done, once; by a command that is refused before, never."""
    announce("images of digits")
    with pytest.raises(UnknownNameError), console.bar("evaluating"):
        raise UnknownNameError("unknown split")
    assert "images of digits" not in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["--version"])
    announce("images of letters")
    with console.bar("evaluating") as progress:
        progress(1, 2)
        assert capsys.readouterr().err == "images of letters\n"
    assert "images of" not in capsys.readouterr().err
