# SPDX-License-Identifier: MIT
"""Latency tables: measured milliseconds of layers, by shape or by name, at each precision; JSON."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bitwright.allocation.shapes import LayerShape, layer_shapes, parse_shape
from bitwright.decode import MAX_INTEGER
from bitwright.errors import FileFormatError, SchemeError, UnknownNameError, shown, unknown_name
from bitwright.files import write_json
from bitwright.graph import Graph
from bitwright.kinds import LATENCIES, read_own_json
from bitwright.scheme import Precision

Latencies = Mapping[Precision, float]
Key = TypeVar("Key")


@dataclass(frozen=True)
class LatencyTable:
    """How long layers take on one device with one engine.

    Attributes:
        device: Where it was measured.
        engine: With what, and its version.
        batch: Images at a time; latencies are of the whole batch.
        by_shape: Milliseconds by shape and precision: serves every network with such layers.
        by_layer: Milliseconds by layer name and precision; goes before `by_shape`.
        uncounted: Layers that the table leaves out on purpose; they count as 0 ms.
        note: What else a reader should know, for instance how it was measured.
        network: SHA-256 of the layers that it was measured on, see `layers_digest`; None for figures from elsewhere.
    """

    device: str
    engine: str
    batch: int
    by_shape: Mapping[LayerShape, Latencies] = field(default_factory=dict)
    by_layer: Mapping[str, Latencies] = field(default_factory=dict)
    uncounted: tuple[str, ...] = ()
    note: str = ""
    network: str | None = None

    def __post_init__(self) -> None:
        faults = [] if self.batch >= 1 else [f"'batch' must be at least 1, got {self.batch}"]
        for key, latencies in (*self.by_layer.items(), *self.by_shape.items()):
            faults += [
                f"'{key}' takes {ms} ms at {precision}; expected a finite number of at least 0"
                for precision, ms in latencies.items()
                if not math.isfinite(ms) or ms < 0
            ]
        if faults:
            raise FileFormatError(f"latency table of {self.device}: " + "; ".join(faults))

    def for_graph(self, graph: Graph, choices: Mapping[str, Iterable[Precision]]) -> dict[str, dict[Precision, float]]:
        """Milliseconds of a network's layers at the precisions they may have.

        Raises:
            UnknownNameError: Names all layers, shapes and precisions that the table lacks.
        """
        shapes = layer_shapes(graph)
        return self.lookup({layer: shapes[layer] for layer in choices}, choices)

    def lookup(
        self, shapes: Mapping[str, LayerShape], choices: Mapping[str, Iterable[Precision]]
    ) -> dict[str, dict[Precision, float]]:
        """As `for_graph`, for layers of these shapes."""
        found: dict[str, dict[Precision, float]] = {}
        missing: dict[str, list[str]] = {}
        for layer, precisions in choices.items():
            shape = shapes[layer]
            known: Latencies = {**self.by_shape.get(shape, {}), **self.by_layer.get(layer, {})}
            found[layer] = {}
            for precision in precisions:
                if layer not in self.uncounted and precision not in known:
                    missing.setdefault(f"'{shape}' (layer '{layer}')", []).append(str(precision))
                found[layer][precision] = 0.0 if layer in self.uncounted else known.get(precision, 0.0)
        if missing:
            shown = "; ".join(f"{key} at {', '.join(precisions)}" for key, precisions in list(missing.items())[:5])
            rest = f"; … ({len(missing)} layers in all)" if len(missing) > 5 else ""
            raise UnknownNameError(
                f"the latency table of {self.device} ({self.engine}) lacks {shown}{rest}. "
                "Measure these shapes too, or search among other precisions."
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        entries = [{"layer": layer, "latency_ms": _texts(ms)} for layer, ms in self.by_layer.items()]
        entries += [{"shape": str(shape), "latency_ms": _texts(ms)} for shape, ms in self.by_shape.items()]
        return {
            "device": self.device,
            "engine": self.engine,
            "batch": self.batch,
            "unit": "ms",
            "note": self.note,
            "network": self.network,
            "uncounted": list(self.uncounted),
            "entries": entries,
        }

    @classmethod
    def from_dict(cls, fields: Any, where: str = "latency table") -> LatencyTable:
        """The inverse of `to_dict`; `note`, `network` and `uncounted` may be left out.

        Raises:
            FileFormatError: All faults together.
        """
        required = {"device", "engine", "batch", "unit", "entries"}
        if not isinstance(fields, Mapping):
            raise FileFormatError(f"{where}: expected a mapping, got {type(fields).__name__}.")
        known = required | {"note", "network", "uncounted"}
        faults = [str(unknown_name("key", str(key), known)).removesuffix(".") for key in fields if key not in known]
        faults += [f"missing key '{key}'" for key in sorted(required - set(fields))]
        if fields.get("unit", "ms") != "ms":
            faults.append(f"'unit' must be ms, got {shown(fields['unit'])}")
        batch = fields.get("batch", 1)
        if type(batch) is not int or batch < 1:
            faults.append(f"'batch' must be a whole number of at least 1, got {shown(batch)}")
        uncounted, entries = fields.get("uncounted", []), fields.get("entries", [])
        for key, value in (("uncounted", uncounted), ("entries", entries)):
            if not isinstance(value, list):
                faults.append(f"'{key}' must be a list, got {type(value).__name__}")
        network = fields.get("network")
        if not isinstance(network, str | None):
            faults.append(f"'network' must be a text or null, got {shown(network)}")
        by_layer: dict[str, Latencies] = {}
        by_shape: dict[LayerShape, Latencies] = {}
        for number, entry in enumerate(entries if isinstance(entries, list) else []):
            try:
                _read_entry(entry, by_layer, by_shape)
            except (FileFormatError, SchemeError) as error:
                faults.append(f"entry {number}: {str(error).removesuffix('.')}")
        if faults:
            raise FileFormatError(f"{where}: " + "; ".join(faults))
        try:
            return cls(
                str(fields["device"]),
                str(fields["engine"]),
                batch,
                by_shape,
                by_layer,
                tuple(str(layer) for layer in uncounted),
                str(fields.get("note", "")),
                network,
            )
        except FileFormatError as error:  # values out of range
            raise FileFormatError(f"{where}: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read JSON.

        Raises:
            FileFormatError: If the file is missing, is no JSON, or is no latency table.
        """
        return cls.from_dict(read_own_json(path, LATENCIES), where=str(path))


def _texts(latencies: Latencies) -> dict[str, float]:
    return {str(precision): ms for precision, ms in sorted(latencies.items())}


def _read_entry(entry: Any, by_layer: dict[str, Latencies], by_shape: dict[LayerShape, Latencies]) -> None:
    """Add one entry of a file."""
    if not isinstance(entry, Mapping) or set(entry) not in ({"layer", "latency_ms"}, {"shape", "latency_ms"}):
        got = ", ".join(map(str, entry)) if isinstance(entry, Mapping) else type(entry).__name__
        raise FileFormatError(f"expected 'latency_ms' and either 'layer' or 'shape', got {got}.")
    if not isinstance(entry["latency_ms"], Mapping):
        raise FileFormatError(f"'latency_ms' must map precisions to milliseconds, got {shown(entry['latency_ms'])}.")
    latencies: dict[Precision, float] = {}
    for text, ms in entry["latency_ms"].items():
        if isinstance(ms, bool) or not isinstance(ms, int | float) or (isinstance(ms, int) and ms > MAX_INTEGER):
            raise FileFormatError(f"'latency_ms' at {text} must be a number, got {shown(ms)}.")
        latencies[Precision.parse(text)] = float(ms)
    if "layer" in entry:
        _add(by_layer, str(entry["layer"]), latencies)
    else:
        _add(by_shape, parse_shape(str(entry["shape"])), latencies)


def _add(table: dict[Key, Latencies], key: Key, latencies: Latencies) -> None:
    if key in table:
        raise FileFormatError(f"'{key}' appears twice.")
    table[key] = latencies
