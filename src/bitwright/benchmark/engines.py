# SPDX-License-Identifier: MIT
"""Engines: what runs files, and the form of the files that it runs."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from bitwright.benchmark.runtimes import RUNTIMES, Runtime
from bitwright.errors import ExportError, unknown_name
from bitwright.export.form import Form, form_of
from bitwright.kinds import own_kind, require_exported


@dataclass(frozen=True, kw_only=True)
class Engine(Runtime):
    """An inference engine.

    Attributes:
        form: The form of its files; the default one where it reads several.
    """

    form: Form


def _engine(runtime: Runtime) -> Engine:
    given = {item.name: getattr(runtime, item.name) for item in fields(Runtime)}
    return Engine(**given, form=form_of(runtime.reads))


ENGINES: dict[str, Engine] = {name: _engine(runtime) for name, runtime in RUNTIMES.items()}
"""By name."""


def known_engine(name: str) -> Engine:
    """The engine of that name.

    Raises:
        UnknownNameError: If there is none.
    """
    if name not in ENGINES:
        raise unknown_name("engine", name, ENGINES)
    return ENGINES[name]


def engine_of(path: str | Path) -> str:
    """The engine that runs a file, by the end of its name and, for ONNX, by the operators that it imports.

    Raises:
        ExportError: If no engine's files have such names.
        FileFormatError: If it is named so, and is something else.
    """
    place = Path(path)
    require_exported(place)
    for name, engine in ENGINES.items():
        if engine.form.suffix == place.suffix and engine.form.is_in(place):
            return name
    known = ", ".join(sorted({engine.form.suffix for engine in ENGINES.values()}))
    what = own_kind(place)
    if what is not None:
        raise ExportError(
            f"expected an exported file ({known}), got {what}, in '{path}'. `bitwright export MODEL -o FILE.onnx` writes one."
        )
    raise ExportError(f"expected a file whose name ends in one of {known}, got '{path}'.")
