# SPDX-License-Identifier: MIT
"""Whether the recomputed figures are still those that were committed: exact integers, so any change is a regression."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from bitwright.errors import ZooError, unknown_name
from bitwright.files import write_text
from bitwright.progress import Progress, silent
from bitwright.zoo.names import model_name
from bitwright.zoo.registry import configurations, data_text, networks, published_scheme
from bitwright.zoo.table import NetworkCosts, network_costs

Figures = dict[str, Any]


def all_models() -> tuple[str, ...]:
    """The networks of the table, then those that only have published bits."""
    return tuple(dict.fromkeys([*networks(), *(model for model, _ in configurations())]))


def recompute(models: Iterable[str] | None = None, *, progress: Progress = silent) -> dict[str, Figures]:
    """The figures of networks and of all their published configurations, from the captured graphs.

    Args:
        models: Names; None means all of the zoo.
        progress: Told about every network.

    Returns:
        By network: `layers`, `weights`, `macs`, `parameters`, and for each scheme its weight bits in all and its bit operations.
    """
    wanted = all_models() if models is None else tuple(models)
    found = {}
    for done, model in enumerate(wanted, 1):
        found[model] = _figures(model, network_costs(model))
        progress(done, len(wanted))
    return found


def _figures(model: str, costs: NetworkCosts) -> Figures:
    schemes = {}
    for other, name in configurations():
        if other == model:
            cost = costs.of(published_scheme(model, name, layers=costs.layers))
            schemes[name] = {"weight_bits": round(cost.size_bytes * 8), "bops": cost.bops}
    return {
        "layers": len(costs.layers),
        "weights": sum(cost.weights for cost in costs.layers.values()),
        "macs": sum(cost.macs for cost in costs.layers.values()),
        "parameters": round(costs.baseline.size_bytes / 4),
        "schemes": schemes,
    }


def verify(
    models: Iterable[str] | None = None,
    *,
    expected: Mapping[str, Figures] | None = None,
    progress: Progress = silent,
) -> tuple[str, ...]:
    """Recompute every row and name all figures that differ from the committed ones.

    Args:
        models: Names of networks; None means all of the zoo.
        expected: Figures as of `recompute`; None means the committed ones.
        progress: Told about every network.

    Returns:
        One line for each difference; none where all is as committed.
    """
    committed = json.loads(data_text("recomputed.json")) if expected is None else expected
    faults: list[str] = []
    for model, figures in recompute(models, progress=progress).items():
        faults += _differences(model, committed.get(model), figures)
    return tuple(faults)


def verify_zoo(models: Iterable[str] | None = None, *, progress: Progress = silent) -> None:
    """Raise ZooError, which names all figures that are no longer those committed."""
    wanted = None if not models else [model_name(model) for model in models]
    for model in wanted or ():
        if model not in all_models():
            raise unknown_name("network of the zoo", model, all_models())
    if faults := verify(wanted, progress=progress):
        raise ZooError(f"{len(faults)} figures of the zoo have changed: {' '.join(faults)}")


def _differences(where: str, expected: Any, got: Any) -> list[str]:
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        keys = dict.fromkeys([*expected, *got])
        return [fault for key in keys for fault in _differences(f"{where}: {key}", expected.get(key), got.get(key))]
    return [] if expected == got else [f"{where}: expected {expected}, got {got}."]


def write_recomputed(path: str | Path, *, progress: Progress = silent) -> None:
    """Write the figures of the whole zoo, as `verify` expects them, atomically."""
    entries = [f"  {json.dumps(model)}: {_json(figures)}" for model, figures in recompute(progress=progress).items()]
    write_text(path, "{\n" + ",\n".join(entries) + "\n}\n")


def _json(figures: Figures) -> str:
    """One line for the network, one for each scheme."""
    head = json.dumps({key: value for key, value in figures.items() if key != "schemes"})[1:-1]
    schemes = ",\n".join(f"      {json.dumps(name)}: {json.dumps(value)}" for name, value in figures["schemes"].items())
    return f'{{\n    {head},\n    "schemes": {{' + (f"\n{schemes}\n    " if schemes else "") + "}\n  }"
