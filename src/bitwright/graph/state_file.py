# SPDX-License-Identifier: MIT
"""Unfinished work in a file, with all the settings that its result depends on, so that nothing goes on under others."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bitwright.errors import FileFormatError
from bitwright.files import refuse_unfinished, write_bytes
from bitwright.graph.tensors_file import read_tensors, serialize
from bitwright.reading import parse_json

_SHOWN = 5


class StateFile:
    """A file that work is kept in until it is done: written from time to time, and read by who goes on with it.

    Args:
        path: The path of the file.
        format_name: The format name of what it holds.
        work: What is unfinished, in a word: "measurement".
        settings: All that the result depends on, as JSON values. Mappings in it are compared entry by entry.
        growing: The settings, numbers, that may be larger than they were: how far the work goes.
        seconds: From one write to the next, where `due` is asked.
    """

    def __init__(
        self,
        path: str | Path,
        format_name: str,
        *,
        work: str,
        settings: Mapping[str, Any],
        growing: Collection[str] = (),
        seconds: float,
    ) -> None:
        self.path = Path(path)
        self._format = format_name
        self._work = work
        self._settings = json.loads(json.dumps(dict(settings)))  # through JSON, in which tuples are lists
        self._growing = growing
        self._seconds = seconds
        self._next = time.monotonic() + seconds

    def due(self) -> bool:
        """Whether the time has come to write."""
        return time.monotonic() >= self._next

    def write(self, tensors: Mapping[str, Tensor], progress: Any = None) -> None:
        """Replace the file by what is known now: tensors by name, and JSON values; atomically."""
        begin = time.monotonic()
        fields = {"settings": json.dumps(self._settings), "progress": json.dumps(progress)}
        write_bytes(self.path, serialize(tensors, self._format, fields))
        end = time.monotonic()
        # No more than a tenth of the time goes into writing, however slow the disk is.
        self._next = end + max(self._seconds, 10 * (end - begin))

    def begin(self, resume: bool) -> tuple[dict[str, Tensor], Any] | None:
        """The tensors and the progress of the last write, by any process; None where there is no file.

        Args:
            resume: Whether to go on from the file, if it exists.

        Raises:
            FileFormatError: If there is a file that the work is not to go on from, which nothing else may overwrite; if it is
                damaged, or belongs to other settings, which are named.
        """
        if not resume:
            refuse_unfinished(self.path, f"give resume=True to go on with this {self._work}")
        if not self.path.exists():
            return None
        tensors, metadata = read_tensors(self.path, self._format)
        try:
            stored, progress = (
                parse_json(metadata[key], f"the {key} in '{self.path}'") for key in ("settings", "progress")
            )
            found = list(differences(stored, self._settings, self._growing))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise FileFormatError(f"'{self.path}' holds no state that this version can read ({error!r}).") from error
        if found:
            more = f"; and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            raise FileFormatError(
                f"'{self.path}' belongs to another {self._work}: {'; '.join(found[:_SHOWN])}{more}. "
                "Give what it was begun with, or delete the file to start anew."
            )
        return tensors, progress


def differences(
    stored: Mapping[str, Any], given: Mapping[str, Any], growing: Collection[str] = (), inside: str = ""
) -> Iterator[str]:
    """What differs between two sets of settings, each in a few words: "seed was 0, is 1".

    Args:
        stored: What was.
        given: What is.
        growing: The settings whose number may have grown.
        inside: What goes before each name.

    >>> list(differences({"seed": 0, "epochs": 1, "bits": {"a": 4}}, {"seed": 1, "epochs": 2, "bits": {"a": 8}}, ["epochs"]))
    ['seed was 0, is 1', 'bits.a was 4, is 8']
    """
    for name in dict.fromkeys([*stored, *given]):
        was: Any = stored.get(name)
        now: Any = given.get(name)
        if was == now or (name in growing and was < now):
            continue
        if isinstance(was, Mapping) and isinstance(now, Mapping):
            yield from differences(was, now, (), f"{inside}{name}.")
        elif max(len(str(was)), len(str(now))) < 40:
            yield f"{inside}{name} was {was}, is {now}"
        else:
            yield f"{inside}{name} differs"  # a digest says nothing to people
