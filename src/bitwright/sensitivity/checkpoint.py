# SPDX-License-Identifier: MIT
"""Partial results of a measurement, kept in a file, so that a killed measurement goes on where it was."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bitwright.errors import FileFormatError
from bitwright.files import write_bytes
from bitwright.graph.tensors_file import read_tensors, serialize
from bitwright.sensitivity.processes import from_main, rank_and_size

FORMAT = "bitwright.sensitivity.1"
_SECONDS = 5.0

State = Callable[[], Mapping[str, Tensor]]


class Partial:
    """The partial results of one estimator; by itself it has none and keeps none.

    Attributes:
        found: What was kept before, by name.
    """

    def __init__(self, found: Mapping[str, Tensor] | None = None) -> None:
        self.found: Mapping[str, Tensor] = found or {}

    def keep(self, state: State) -> None:
        """Called after each step, with what gives all partial results by then."""


class Checkpoint:
    """The file that partial results are kept in: every few seconds, and when the block that it opens is left.

    Results that are taken up again are those of an uninterrupted measurement, bit for bit: all of them are sums of samples,
    the samples are kept, and what comes next depends on nothing else. With several processes only the main one reads and
    writes.

    Args:
        path: The file, or None to keep nothing.
        settings: All that the results depend on, as JSON values.
        resume: Whether to start from the file, if it exists.

    Raises:
        FileFormatError: If the file is damaged, or belongs to other settings.
    """

    def __init__(self, path: str | Path | None, settings: Mapping[str, Any], resume: bool = False) -> None:
        self._path = None if path is None else Path(path)
        self._settings = dict(settings)
        self._found = from_main(self._read) if resume else {}
        # What was found stays in the file until its estimator has something newer.
        self._states: dict[str, State] = {name: lambda kept=kept: kept for name, kept in self._found.items()}  # type: ignore[misc]
        self._changed = False
        self._next = time.monotonic() + _SECONDS

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        if self._changed:
            self._write()

    def part(self, name: str) -> Partial:
        """The partial results of one of several estimators."""
        return _Part(self, name, self._found.get(name, {}))

    def _keep(self, name: str, state: State) -> None:
        if self._path is None or rank_and_size()[0] != 0:
            return
        self._states[name] = state
        self._changed = True
        if time.monotonic() >= self._next:
            self._write()

    def _write(self) -> None:
        assert self._path is not None
        begin = time.monotonic()
        tensors = {f"{part}/{name}": value for part, state in self._states.items() for name, value in state().items()}
        write_bytes(self._path, serialize(tensors, FORMAT, {"settings": json.dumps(self._settings)}))
        self._changed = False
        end = time.monotonic()
        # No more than a tenth of the time goes into writing, however slow the disk is.
        self._next = end + max(_SECONDS, 10 * (end - begin))

    def _read(self) -> dict[str, dict[str, Tensor]]:
        """Tensors by estimator and name; none where there is no file."""
        if self._path is None or not self._path.exists():
            return {}
        tensors, metadata = read_tensors(self._path, FORMAT)
        stored = json.loads(metadata["settings"])
        # Through JSON, in which tuples are lists.
        given = json.loads(json.dumps(self._settings))
        faults = [
            f"{name} {f'was {stored.get(name)}, is {given.get(name)}' if _is_short(stored, given, name) else 'differs'}"
            for name in sorted({*stored, *given})
            if stored.get(name) != given.get(name)
        ]
        if faults:
            raise FileFormatError(
                f"'{self._path}' belongs to another measurement: {'; '.join(faults)}. Give what it was begun with, "
                "or start anew without resuming."
            )
        found: dict[str, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            part, _, name = key.partition("/")
            found.setdefault(part, {})[name] = value
        return found


class _Part(Partial):
    def __init__(self, checkpoint: Checkpoint, name: str, found: Mapping[str, Tensor]) -> None:
        super().__init__(found)
        self._checkpoint = checkpoint
        self._name = name

    def keep(self, state: State) -> None:
        self._checkpoint._keep(self._name, state)


def _is_short(stored: Mapping[str, Any], given: Mapping[str, Any], name: str) -> bool:
    """Whether a setting says something to people, unlike a digest."""
    return all(len(str(values.get(name))) < 40 for values in (stored, given))
