# SPDX-License-Identifier: MIT
"""Work that is interrupted: what is kept of it, the command that goes on, and what would overwrite it without a word."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bitwright.files import refuse_unfinished

STATUS = 130
"""Of a program that Ctrl-C ended: 128 and the number of the signal, as shells count."""


class Interrupted(Exception):
    """Ctrl-C during work that is kept.

    Args:
        states: The files that it is kept in, as far as it got.
        how: What to add to the command to go on.
    """

    def __init__(self, states: Iterable[Path], how: Sequence[str]) -> None:
        super().__init__(states)
        self.states = tuple(states)
        self.how = tuple(how)

    def advice(self, command: Sequence[str]) -> str:
        """How to go on with what a command began.

        >>> Interrupted([Path(".")], ["--resume"]).advice(["bitwright", "train", "my net.graph", "-o", "x"])
        "interrupted: go on with: bitwright train 'my net.graph' -o x --resume"
        """
        if not any(state.exists() for state in self.states):
            return "interrupted before anything was kept: start again."
        more = () if set(self.how) <= set(command) else self.how
        return f"interrupted: go on with: {shlex.join([*command, *more])}"


@contextmanager
def resumable(*states: Path, how: Sequence[str] = ("--resume",)) -> Iterator[None]:
    """Work that is kept in `states`, in one or the other, from time to time: Ctrl-C becomes `Interrupted`."""
    try:
        yield
    except KeyboardInterrupt as error:
        raise Interrupted(states, how) from error


def require_resumed(state: Path, resume: bool, how: Sequence[str] = ("--resume",)) -> None:
    """Refuse at once, before data is read, what would overwrite the state of an interrupted run.

    Args:
        state: Where it would be.
        resume: Whether it shall go on.
        how: What to add to the command to go on.

    Raises:
        FileFormatError: If there is one, and it should not go on.
    """
    if not resume:
        refuse_unfinished(state, f"add {shlex.join(how)} to go on")
