# SPDX-License-Identifier: MIT
"""What a command says of work before it begins: kept until the work has begun, since a refusal is one line."""

from __future__ import annotations

_lines: list[str] = []


def announce(line: str) -> None:
    """Say this once something was done; never, if the command is refused before."""
    _lines.append(line)


def announced() -> list[str]:
    """What waits to be said, which then no longer waits."""
    found = _lines.copy()
    _lines.clear()
    return found
