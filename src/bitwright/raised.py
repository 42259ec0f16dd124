# SPDX-License-Identifier: MIT
"""What a user's own code raised, in one line with its place."""

from __future__ import annotations

import re
import traceback
from pathlib import Path

_OWN = str(Path(__file__).parent)
_ESCAPES = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def described(error: BaseException) -> str:
    """Type, first words and place of an error."""
    words = " ".join(_ESCAPES.sub("", str(error)).split())[:300].rstrip(".")
    text = f"{type(error).__name__}: {words}" if words else type(error).__name__
    return f"{text} ({where})" if (where := place(error)) else text


def place(error: BaseException) -> str:
    """File, line and function: the last outside installed packages, which is the user's own."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"'{error.filename}', line {error.lineno}"
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith((_OWN, "<frozen"))
    ]
    own = [frame for frame in frames if "site-packages" not in frame.filename]
    last = (own or frames)[-1:]
    return "".join(f"'{frame.filename}', line {frame.lineno}, in {frame.name}" for frame in last)
