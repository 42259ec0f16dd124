# SPDX-License-Identifier: MIT
"""The command line in this process: what it prints, and how it exits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

import pytest

from bitwright.cli import console, main


@dataclass(frozen=True)
class Result:
    """Exit status, stdout and stderr of a command."""

    status: int
    out: str
    err: str


Command = Callable[..., Result]


@pytest.fixture(scope="session", autouse=True)
def _digits_read_once() -> Iterator[None]:
    """Most commands here read the same file of digits, which takes longer than what is asked of them."""
    from bitwright.data import mnist

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(mnist, "read_digits", cache(mnist.read_digits))
        yield


@pytest.fixture
def bitwright(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run `bitwright ARGUMENTS...`."""
    for printed_on in (console.stdout, console.stderr):  # COLUMNS counts only when these are made
        monkeypatch.setattr(printed_on, "width", 200)

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        status = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as exit:
            status = exit.code if isinstance(exit.code, int) else 1
        printed = capsys.readouterr()
        return Result(status, printed.out, printed.err)

    return run
