# SPDX-License-Identifier: MIT
"""What the front door measured, as its report file has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from bitwright.auto.measured import Measured
from bitwright.decode import decode
from bitwright.errors import FileFormatError
from bitwright.kinds import SEARCHED, read_own_json
from bitwright.scheme import Precision

WHAT = SEARCHED.words


@dataclass(frozen=True)
class TracedPoint:
    """A scheme on the frontier: its name, what it costs, and the loss that is expected of it."""

    scheme: str
    used: float
    objective: float


@dataclass(frozen=True)
class TracedFrontier:
    """The best schemes over one cost, in its unit, cheapest first."""

    kind: str
    unit: str
    points: tuple[TracedPoint, ...]


@dataclass(frozen=True)
class Searched:
    """A search that is done.

    Attributes:
        scheme: The name of the scheme that was found.
        way: How its integers were made.
        floats: The float network on the held-out images.
        integers: What was found, on them.
        float_ms: Milliseconds of the float network for one image.
        integers_ms: Of the file that was written.
        equal: The equal of how many images all logits are, and of how many.
        checked: What the file states about where it was run.
        tried: All that was measured: (way, scheme's name, counts).
        choices: What each layer might have had; empty where the file does not say.
        frontier: That was searched along; None where there was no drop to keep.
    """

    scheme: str
    way: str
    floats: Measured
    integers: Measured
    float_ms: float
    integers_ms: float
    equal: tuple[int, int]
    checked: str
    tried: tuple[tuple[str, str, Measured], ...]
    choices: tuple[Precision, ...]
    frontier: TracedFrontier | None

    @classmethod
    def load(cls, path: str | Path) -> Searched:
        """Read the report that `auto_quantize` wrote beside its file.

        Raises:
            FileFormatError: If it is something else.
        """
        return cls.from_dict(read_own_json(path, SEARCHED), f"{WHAT} ('{path}')")

    @classmethod
    def from_dict(cls, value: Any, where: str = WHAT) -> Searched:
        """From `AutoResult.to_dict`, whose further entries are left aside.

        Raises:
            FileFormatError: If it is something else: all faults together.
        """
        found = decode(_Written, _known(_Written, value), where)
        settings = decode(_Asked, _known(_Asked, found.settings), f"{where}: 'settings'")
        tried = []
        for place, entry in enumerate(found.tried):
            at = f"{where}: 'tried'[{place}]"
            named = decode(_Named, _known(_Named, entry), at)
            tried.append((named.way, named.scheme, _measured(entry, at)))
        return cls(
            scheme=decode(_Scheme, _known(_Scheme, found.scheme), f"{where}: 'scheme'").name,
            way=found.way,
            floats=_measured(_entry(value, "float", where), f"{where}: 'float'"),
            integers=_measured(found.integers, f"{where}: 'integers'"),
            float_ms=_entry(found.milliseconds, "float", f"{where}: 'milliseconds'"),
            integers_ms=_entry(found.milliseconds, "integers", f"{where}: 'milliseconds'"),
            equal=(found.equal_images, found.compared_images),
            checked=found.checked,
            tried=tuple(tried),
            choices=tuple(map(Precision.parse, settings.choices)),
            frontier=found.frontier,
        )


@dataclass(frozen=True)
class _Written:
    scheme: object
    way: str
    integers: object
    milliseconds: Mapping[str, float]
    equal_images: int
    compared_images: int
    checked: str
    tried: tuple[object, ...]
    frontier: TracedFrontier | None
    settings: object = None


@dataclass(frozen=True)
class _Asked:
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Named:
    way: str
    scheme: str


@dataclass(frozen=True)
class _Scheme:
    name: str


def _measured(value: Any, where: str) -> Measured:
    """Counts, from which all else follows."""
    found = decode(Measured, _known(Measured, value), where)
    if found.images < 1:
        raise FileFormatError(f"{where}: expected at least one image, got {found.images}")
    return found


def _entry(value: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in value:
        raise FileFormatError(f"{where}: missing key '{name}'")
    return value[name]


def _known(kind: type, value: Any) -> Any:
    """Of a mapping, what `kind` has a field for."""
    if not isinstance(value, Mapping):
        return {} if value is None else value
    return {field.name: value[field.name] for field in fields(kind) if field.name in value}
