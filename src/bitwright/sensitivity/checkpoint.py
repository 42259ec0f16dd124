# SPDX-License-Identifier: MIT
"""Partial results of a measurement, kept in a file, so that a killed measurement goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import FileFormatError
from bitwright.graph.state_file import StateFile
from bitwright.processes import from_main, rank_and_size

FORMAT = "bitwright.sensitivity.4"
SECONDS = 5.0
"""From one write to the next: samples are small, and what was not kept is computed again."""

State = Callable[[], Mapping[str, Tensor]]


class Partial:
    """The partial results of one estimator; by itself it has none and keeps none.

    Args:
        found: What was kept before, by name.
        path: The path of the file that it was kept in, for messages.
    """

    def __init__(self, found: Mapping[str, Tensor] | None = None, path: str | Path | None = None) -> None:
        self._found: Mapping[str, Tensor] = found or {}
        self._path = path

    def found(self, key: str, *shape: int | None, integers: bool = False) -> Tensor | None:
        """What was kept before under a name.

        Args:
            key: The name.
            shape: The shape of the tensor; None stands for any length.
            integers: Whether it holds int64; else it holds floating-point numbers.

        Raises:
            FileFormatError: If another kind of tensor was kept.
        """
        tensor = self._found.get(key)
        if tensor is None:
            return None
        sizes = zip(tensor.shape, shape, strict=False)
        fits = len(tensor.shape) == len(shape) and all(wanted in (None, size) for size, wanted in sizes)
        if not fits or (tensor.dtype != torch.int64 if integers else not tensor.is_floating_point()):
            kind = "int64" if integers else "floating point"
            wanted = " x ".join("any" if size is None else str(size) for size in shape)
            raise FileFormatError(
                f"'{self._path}' holds no results that this version can read: '{key}' is {tensor.dtype} of shape "
                f"{tuple(tensor.shape)}, expected {kind} of shape {wanted}. Delete it to start anew."
            )
        return tensor

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
        FileFormatError: If the file is damaged, belongs to other settings, or exists and is not to be resumed.
    """

    def __init__(self, path: str | Path | None, settings: Mapping[str, Any], resume: bool = False) -> None:
        self._file = (
            None if path is None else StateFile(path, FORMAT, work="measurement", settings=settings, seconds=SECONDS)
        )
        self._found = from_main(partial(self._read, resume))
        # What was found stays in the file until its estimator has something newer.
        self._states: dict[str, State] = {name: lambda kept=kept: kept for name, kept in self._found.items()}  # type: ignore[misc]
        self._changed = False

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *_: object) -> None:
        if self._changed:
            self._write()

    def part(self, name: str) -> Partial:
        """The partial results of one of several estimators."""
        return _Part(self, name, self._found.get(name, {}))

    def _keep(self, name: str, state: State) -> None:
        if self._file is None or rank_and_size()[0] != 0:
            return
        self._states[name] = state
        self._changed = True
        if self._file.due():
            self._write()

    def _write(self) -> None:
        assert self._file is not None
        self._file.write(
            {f"{part}/{name}": value for part, state in self._states.items() for name, value in state().items()}
        )
        self._changed = False

    def _read(self, resume: bool) -> dict[str, dict[str, Tensor]]:
        """Tensors by estimator and name; none where there is no file."""
        kept = None if self._file is None else self._file.begin(resume)
        found: dict[str, dict[str, Tensor]] = {}
        for key, value in (kept[0] if kept else {}).items():
            part, _, name = key.partition("/")
            found.setdefault(part, {})[name] = value
        return found


class _Part(Partial):
    def __init__(self, checkpoint: Checkpoint, name: str, found: Mapping[str, Tensor]) -> None:
        super().__init__(found, None if checkpoint._file is None else checkpoint._file.path)
        self._checkpoint = checkpoint
        self._name = name

    def keep(self, state: State) -> None:
        self._checkpoint._keep(self._name, state)
