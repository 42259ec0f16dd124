# SPDX-License-Identifier: MIT
"""Numbers on the command line: each has a range, NaN is in none, and what is out of it is told with what was given."""

from __future__ import annotations

import math
from collections.abc import Callable

import typer

MANY = 2**31 - 1
"""More than any count that makes sense, and what all the libraries underneath can count to."""
MAX_SEED = 2**63 - 1
MAX_SIDE = 4096
"""Pixels: a picture of this side takes 200 MB in float32, and a network's tensors many times as much."""
MAX_CLASSES = 1_000_000
MAX_THREADS = 1024


def whole(least: int, most: int = MANY) -> Callable[[str | int], int]:
    """What reads a whole number of at least `least` and at most `most`; for an option's `parser`.

    >>> whole(0)("12")
    12
    """

    def parse(text: str | int) -> int:
        value: int | None
        try:
            value = int(text)
        except ValueError:  # also where it has thousands of digits
            value = None
        if value is None or not least <= value <= most:
            limit = "" if most == MANY else f" and at most {most}"
            raise typer.BadParameter(f"expected a whole number of at least {least}{limit}, got '{_short(text)}'")
        return value

    return parse


def one_of(*choices: int) -> Callable[[str | int], int]:
    """What reads one of a few numbers.

    >>> one_of(8, 16)("16")
    16
    """

    def parse(text: str | int) -> int:
        if str(text) not in map(str, choices):
            raise typer.BadParameter(f"expected {' or '.join(map(str, choices))}, got '{_short(text)}'")
        return int(text)

    return parse


def real(least: float, most: float = math.inf) -> Callable[[str | float], float]:
    """What reads a finite number of at least `least` and at most `most`; for an option's `parser`.

    >>> real(0.0, 1.0)("0.5")
    0.5
    """

    def parse(text: str | float) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most):
            low = "" if least == -math.inf else f" of at least {least:g}"
            high = "" if most == math.inf else f" and at most {most:g}"
            raise typer.BadParameter(f"expected a number{low}{high}, got '{_short(text)}'")
        return value

    return parse


def reals(text: str | tuple[float, ...]) -> tuple[float, ...]:
    """Numbers with commas between them.

    >>> reals("0.5, 0.25")
    (0.5, 0.25)
    """
    return text if isinstance(text, tuple) else tuple(map(real(-math.inf), text.split(",")))


def share(text: str | float) -> float:
    """A part of a whole, as percent or as a number below one.

    >>> share("1%"), share("0.01")
    (0.01, 0.01)
    """
    number = str(text).strip()
    value = real(0.0)(number.removesuffix("%").strip()) / (100 if number.endswith("%") else 1)
    if value >= 1:
        raise typer.BadParameter(f"expected a part of the whole, such as 1% or 0.01, got '{_short(text)}'")
    return value


def _short(text: object) -> str:
    shown = str(text)
    return shown if len(shown) <= 40 else f"{shown[:40]}…"
