# SPDX-License-Identifier: MIT
"""Writing files so that a reader finds the old one or the new one, never half of either, and no other file is touched."""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from bitwright.errors import FileFormatError, OutputError, reason
from bitwright.reading import kind_of

if sys.platform != "win32":
    import fcntl


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a temporary file in the folder of `path`, then rename it into place.

    The rename is atomic on POSIX and Windows, and the data is on disk before it, so a kill or a power cut at any
    moment leaves the former file or the complete new one. The temporary file of a killed save is removed by the next save of
    the same file.

    Raises:
        OutputError: If the file cannot be written, for instance because the disk is full: it names the file.
    """
    with naming(path):
        target = final_place(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(target)
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        temporary = Path(name)
        try:
            with open(handle, "rb+") as held:
                _lock(held)
                write(temporary)
                with open(temporary, "rb+") as file:  # which `write` may have replaced
                    os.fsync(file.fileno())
                umask = os.umask(0)
                os.umask(umask)
                os.chmod(temporary, 0o666 & ~umask)
                if sys.platform == "win32":
                    held.close()  # an open file cannot be renamed there
                os.replace(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)


def final_place(path: str | Path) -> Path:
    """Where a file is written: what a symbolic link points to, so that the link stays one.

    Raises:
        OutputError: If something else than a regular file is there, such as a folder or a device.
    """
    with naming(path):
        place = Path(os.path.realpath(path))
        try:
            mode = os.stat(place).st_mode
        except FileNotFoundError:
            return place
    if not stat.S_ISREG(mode):
        raise OutputError(f"cannot write '{path}': it is {kind_of(mode)}. Name a file.")
    return place


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Whatever the system refuses meanwhile is said of `path`, and not of a temporary file, or of none.

    Raises:
        OutputError: In its place.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        # ValueError: a zero byte in the name; a writer's own are of its values.
        if isinstance(error, ValueError) and "\0" not in str(path):
            raise
        raise OutputError(f"cannot write '{path}': {reason(error)}.") from error


def _remove_leftovers(target: Path) -> None:
    """Remove the temporary files of saves of `target` whose process has ended: a living one holds a lock on its own."""
    if sys.platform == "win32":  # which has no such locks: leftovers stay
        return
    leftover = re.compile(re.escape(f".{target.name}.") + r"[a-z0-9_]{8}\.tmp")
    for entry in target.parent.iterdir():
        if leftover.fullmatch(entry.name):
            try:
                with open(entry, "rb+") as file:
                    if _lock(file):
                        entry.unlink(missing_ok=True)
            except OSError:  # gone already, or another user's
                continue


def _lock(file: IO[bytes]) -> bool:
    """Take the lock on an open file, unless another process has it; the kernel gives it back when the process ends, however."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def write_text(path: str | Path, text: str) -> None:
    """Write text atomically, as UTF-8."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write bytes atomically."""
    write_atomically(path, lambda temporary: temporary.write_bytes(data))


def write_json(path: str | Path, value: Any) -> None:
    """Write indented JSON atomically; NaN and infinities are refused, since JSON has none."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def refuse_unfinished(path: Path, how: str) -> None:
    """Keep new work from overwriting the state of another.

    Args:
        path: Where its state would be.
        how: What to do to go on.

    Raises:
        FileFormatError: If there is one.
    """
    if path.exists():
        raise FileFormatError(f"'{path}' holds the state of an interrupted run: {how}, or delete it to start anew.")
