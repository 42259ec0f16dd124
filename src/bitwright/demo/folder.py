# SPDX-License-Identifier: MIT
"""The folder of a demonstration: it says which files are its own, and a demonstration touches no others."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitwright.decode import decode
from bitwright.errors import DataError, OutputError
from bitwright.files import naming, write_json
from bitwright.graph.state_file import differences
from bitwright.reading import read_json

RECORD = "settings.json"
FORMAT = "bitwright.demo.1"
_TEMPORARY = re.compile(r"\.(.+)\.[a-z0-9_]{8}\.tmp")
"""What a killed save of the file in the middle leaves behind."""


@dataclass(frozen=True)
class _Record:
    """The JSON of the record.

    Attributes:
        format: That of this class.
        settings: All that the results depend on.
        files: Names of all files that the demonstration may write.
    """

    format: str
    settings: Mapping[str, object]
    files: tuple[str, ...]


def open_folder(folder: Path, settings: Mapping[str, Any], files: Collection[str], *, resume: bool) -> None:
    """Make the folder, or take over one that a demonstration wrote: without `resume`, its files are removed.

    Args:
        folder: Where the demonstration will write.
        settings: All that its results depend on, as JSON values.
        files: Names of all files that it may write.
        resume: Whether to go on with what is there.

    Raises:
        OutputError: If something is there that no demonstration wrote, or the folder cannot be written; nothing is removed then.
        DataError: If a demonstration with other settings should go on.
        FileFormatError: If the record is damaged.
    """
    settings = json.loads(json.dumps(settings))
    if folder.exists():
        with naming(folder):
            present = sorted(folder.iterdir())
        if present:
            found = _record(folder, present)
            if resume and (other := "; ".join(differences(found.settings, settings))):
                raise DataError(
                    f"'{folder}' holds a job with other settings: {other}. Choose another folder, or do not resume."
                )
        if not resume:
            for path in present:
                path.unlink()
    write_json(folder / RECORD, {"format": FORMAT, "settings": settings, "files": sorted(files)})


def _record(folder: Path, present: Collection[Path]) -> _Record:
    """The record of a folder in which all is a demonstration's own."""
    found = _Record(FORMAT, {}, ())
    if folder / RECORD in present:
        found = decode(_Record, read_json(folder / RECORD, "a demonstration's record"), f"'{folder / RECORD}'")
    own = {RECORD, *found.files} if found.format == FORMAT else set()
    for path in present:
        temporary = _TEMPORARY.fullmatch(path.name)
        name = temporary[1] if temporary else path.name
        if name not in own or not stat.S_ISREG(path.lstat().st_mode):
            raise OutputError(
                f"'{folder}' holds '{path.name}', which no demonstration wrote: nothing was touched; choose another folder."
            )
    return found
