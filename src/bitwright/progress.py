# SPDX-License-Identifier: MIT
"""How long work tells how far it is; the command line draws bars from it, notebooks and tests may do what they like."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called as work goes on."""

    def __call__(self, done: int, total: int, /, **figures: float) -> None:
        """`done` of `total` steps are finished; `figures` are worth showing, for instance `loss`."""


def silent(done: int, total: int, /, **figures: float) -> None:
    """Tells nobody."""
