# SPDX-License-Identifier: MIT
"""Whether the figures of the zoo are still those that were committed: exact integers, so any change is a regression."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from bitwright.errors import ZooError, unknown_name
from bitwright.files import write_text
from bitwright.progress import Progress, silent
from bitwright.zoo.counts import Counts, all_models, stored_counts, stored_figures
from bitwright.zoo.names import model_name
from bitwright.zoo.registry import configurations, published_scheme

Figures = dict[str, Any]
Counting = Callable[[str], Counts]
"""Of a network, by its name: `stored_counts`, or `counting.count_network`, which captures it."""


def figures(
    counts: Counting, models: Iterable[str] | None = None, *, progress: Progress = silent
) -> dict[str, Figures]:
    """The figures of networks and of all their published configurations.

    Args:
        counts: Where the counts of a network come from.
        models: Names; None means all of the zoo.
        progress: Told about every network.

    Returns:
        By network: `weights`, `macs`, `parameters`, those of every layer, and for each scheme its weight bits in all and its bit
        operations.
    """
    wanted = all_models() if models is None else tuple(models)
    found = {}
    for done, model in enumerate(wanted, 1):
        found[model] = _figures(model, counts(model))
        progress(done, len(wanted))
    return found


def _figures(model: str, counts: Counts) -> Figures:
    schemes = {}
    for other, name in configurations():
        if other == model:
            cost = counts.of(published_scheme(model, name, layers=counts.layers))
            schemes[name] = {"weight_bits": round(cost.size_bytes * 8), "bops": cost.bops}
    return {
        "weights": sum(cost.weights for cost in counts.layers.values()),
        "macs": sum(cost.macs for cost in counts.layers.values()),
        "parameters": counts.parameters,
        "layers": {name: [cost.weights, cost.macs] for name, cost in counts.layers.items()},
        "schemes": schemes,
    }


def changed_figures(
    models: Iterable[str] | None = None,
    *,
    counts: Counting = stored_counts,
    expected: Mapping[str, Figures] | None = None,
    progress: Progress = silent,
) -> tuple[str, ...]:
    """Compute the figures of every row and name all that differ from the committed ones.

    Args:
        models: Names of networks; None means all of the zoo.
        counts: Where the counts of a network come from.
        expected: Figures as of `figures`; None means the committed ones.
        progress: Told about every network.

    Returns:
        One line for each difference; none where all is as committed.
    """
    committed = stored_figures() if expected is None else expected
    faults: list[str] = []
    for model, found in figures(counts, models, progress=progress).items():
        faults += _differences(model, committed.get(model), found)
    return tuple(faults)


def check_zoo(
    models: Iterable[str] | None = None, *, counts: Counting = stored_counts, progress: Progress = silent
) -> None:
    """Raise ZooError, which names all figures that are no longer those committed."""
    wanted = None if not models else [model_name(model) for model in models]
    for model in wanted or ():
        if model not in all_models():
            raise unknown_name("network of the zoo", model, all_models())
    if faults := changed_figures(wanted, counts=counts, progress=progress):
        raise ZooError(f"{len(faults)} figures of the zoo have changed: {' '.join(faults)}")


def _differences(where: str, expected: Any, got: Any) -> list[str]:
    if isinstance(expected, Mapping) and isinstance(got, Mapping):
        keys = dict.fromkeys([*expected, *got])
        return [fault for key in keys for fault in _differences(f"{where}: {key}", expected.get(key), got.get(key))]
    return [] if expected == got else [f"{where}: expected {expected}, got {got}."]


def write_figures(path: str | Path, counts: Counting, *, progress: Progress = silent) -> None:
    """Write the figures of the whole zoo, as `changed_figures` expects them, atomically."""
    found = figures(counts, progress=progress)
    write_text(
        path, "{\n" + ",\n".join(f"  {json.dumps(model)}: {_json(own)}" for model, own in found.items()) + "\n}\n"
    )


def _json(own: Figures) -> str:
    """One line for the network, one for each layer and scheme."""
    parts = [json.dumps({key: value for key, value in own.items() if key not in ("layers", "schemes")})[1:-1]]
    for key in ("layers", "schemes"):
        lines = ",\n".join(f"      {json.dumps(name)}: {json.dumps(value)}" for name, value in own[key].items())
        parts.append(f'"{key}": {{' + (f"\n{lines}\n    " if lines else "") + "}")
    return "{\n    " + ",\n    ".join(parts) + "\n  }"
