# SPDX-License-Identifier: MIT
"""Budgets of latency, kept honest: layers are timed here and scaled to the whole, and the file is held against the budget."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from pathlib import Path

from bitwright.allocation import LatencyTable
from bitwright.auto.settings import AutoSettings
from bitwright.benchmark import measure_layers
from bitwright.errors import BitwrightWarning, ExportError
from bitwright.export import form_of
from bitwright.export.form import Form
from bitwright.graph import Graph
from bitwright.progress import Progress, silent
from bitwright.scheme import MAX_BITS, Precision

ROUNDS = 9


def asks_for_latency(settings: AutoSettings) -> bool:
    """Whether a budget is about latency, or it is to be least."""
    return settings.cost == "latency" or any(budget.kind == "latency" for budget in settings.budgets)


def require_latencies(settings: AutoSettings, form: Form) -> None:
    """Refuse budgets of latency for files whose layers cannot be timed one by one.

    Raises:
        ExportError: Says for which they can.
    """
    if asks_for_latency(settings) and form is not form_of("onnx"):
        raise ExportError(
            f"latency is that of ONNX files, whose layers are cut out and timed, got a file for {form.engine}: write to a "
            "file that ends in .onnx, or ask for size and bit operations."
        )


def layer_latencies(
    graph: Graph, choices: Iterable[Precision], path: Path, *, resume: bool, progress: Progress = silent
) -> LatencyTable:
    """Milliseconds of the layers for one image in ONNX Runtime with one thread, scaled so that they sum up to the network's.

    What speaks against such sums is said as a `BitwrightWarning`.

    Args:
        graph: The network.
        choices: What a layer may have, besides 8 bits.
        path: Where the table is kept.
        resume: Whether to take the one that is there: a search that goes on searches among the same figures.
        progress: Called after every model of every round.
    """
    if resume and path.exists():
        return LatencyTable.load(path)
    precisions = dict.fromkeys((*choices, Precision(MAX_BITS, MAX_BITS)))  # the first and last layer have the last
    found = measure_layers(graph, precisions, rounds=ROUNDS, progress=progress)
    for doubt in found.doubts():
        warnings.warn(doubt, BitwrightWarning, stacklevel=2)
    table = found.scaled()
    table.save(path)
    return table


def judge_latency(settings: AutoSettings, milliseconds: float) -> None:
    """Warn where the file that was written takes longer than was asked for.

    Args:
        settings: Their absolute budgets are looked at: relative ones have no other measure than the sum of layers.
        milliseconds: For one image, of the file.
    """
    for budget in settings.budgets:
        if budget.kind == "latency" and not budget.relative and milliseconds > budget.limit:
            warnings.warn(
                f"the file takes {milliseconds:.3f} ms, more than the {budget.limit:g} ms that were asked for: latencies of "
                "layers are not quite that of the whole. Ask for less, or measure again on an idle machine.",
                BitwrightWarning,
                stacklevel=2,
            )
