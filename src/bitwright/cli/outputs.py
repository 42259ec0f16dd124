# SPDX-License-Identifier: MIT
"""What a command is about to write, looked at before it begins: no input is replaced, and every folder can be written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from bitwright.errors import OutputError
from bitwright.files import final_place, naming


def reserve(*outputs: Path | None, reads: Iterable[Path | str | None] = ()) -> None:
    """Refuse to write what a command reads, or two of its results to one file; and try the folders of all of them.

    Nothing is left behind: folders that do not exist are made, tried and removed again.

    Args:
        outputs: Files that the command will write.
        reads: Files that it reads; names that are no files are passed over.

    Raises:
        OutputError: If an output is a device, a folder or another file of the command, or cannot be written.
    """
    inputs = {os.path.realpath(path): path for path in reads if path is not None and "\0" not in str(path)}
    seen: dict[Path, Path] = {}
    for path in outputs:
        if path is None:
            continue
        place = final_place(path)
        if str(place) in inputs:
            raise OutputError(
                f"cannot write '{path}': this command reads it, as '{inputs[str(place)]}'. Name another file."
            )
        if place in seen:
            raise OutputError(
                f"cannot write '{path}': this command writes '{seen[place]}' there, too. Name another file."
            )
        seen[place] = path
        try_folder(place.parent, path)


def try_folder(folder: Path, path: Path) -> None:
    """Write in a folder, and leave it as it was.

    Args:
        folder: Where to write; it need not exist.
        path: The file or folder that the user named, for the message.

    Raises:
        OutputError: If that is impossible.
    """
    missing = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    with naming(path):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder, prefix=f".{path.name}.", suffix=".tmp"):
                pass
        finally:
            for parent in missing:
                if parent.is_dir():
                    parent.rmdir()
