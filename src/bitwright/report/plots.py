# SPDX-License-Identifier: MIT
"""Plots: bits of each layer over its sensitivity, and the Pareto frontier with schemes on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bitwright.allocation import ParetoFrontier
from bitwright.allocation.origin import require_same_origin
from bitwright.cost import BYTES_PER_MB
from bitwright.extras import require
from bitwright.files import write_atomically
from bitwright.scheme import Scheme
from bitwright.sensitivity import SensitivityTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DPI = 150
BARS, LINES = "#9db4c8", ("#c0392b", "#1f6f54", "#8e44ad", "#b9770e")


def plot_bits(path: str | Path, table: SensitivityTable, schemes: Sequence[Scheme], budgets: str = "") -> None:
    """Write a PNG: mean trace of each layer with error bars, and the weight bits that schemes give it.

    Args:
        path: The file.
        table: The sensitivities.
        schemes: Each becomes a line.
        budgets: What the schemes use, in words, below the title.

    Raises:
        MissingLibraryError: If matplotlib is not installed.
    """
    layers = [entry.layer for entry in table.layers]
    places = range(len(layers))
    figure = _figure(max(6.0, 0.36 * len(layers) + 2), 5.2)
    axes = figure.subplots()
    traces = [entry.mean_trace() for entry in table.layers]
    errors = [entry.mean_trace_standard_error() for entry in table.layers]
    axes.bar(places, traces, yerr=errors, color=BARS, capsize=2, label="mean trace, with standard error")
    if min(traces) > 0:
        axes.set_yscale("log")
    axes.set_ylabel("mean trace")
    axes.set_xticks(places, [_short(layer) for layer in layers], rotation=90, fontsize=7)
    axes.set_title("\n".join(filter(None, (f"{table.model}: bits where the loss is curved", budgets))), fontsize=10)
    bits = axes.twinx()
    for index, scheme in enumerate(schemes):
        chosen = [scheme.layers[layer].weight_bits for layer in layers]
        # Lines of several schemes coincide in most layers: each is drawn a little apart.
        shifted = [width + 0.07 * (index - (len(schemes) - 1) / 2) for width in chosen]
        bits.step(places, shifted, where="mid", color=LINES[index % len(LINES)], linewidth=1.6, label=scheme.name)
    bits.set_ylim(1.5, 8.5)
    bits.set_ylabel("weight bits")
    handles = [*axes.get_legend_handles_labels()[0], *bits.get_legend_handles_labels()[0]]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), fontsize=8, frameon=False)
    _save(figure, path)


def plot_frontier(
    path: str | Path, frontier: ParetoFrontier, table: SensitivityTable, schemes: Sequence[Scheme]
) -> None:
    """Write a PNG: expected loss over what is used, and where schemes lie.

    Args:
        path: The file.
        frontier: The best schemes.
        table: Its sensitivities, by which losses are counted.
        schemes: Each becomes a point, where the frontier is over size.

    Raises:
        MissingLibraryError: If matplotlib is not installed.
        DataError: If the frontier was traced from other sensitivities: of another network, on other images, or of another output.
    """
    require_same_origin((frontier.network, frontier.images), frontier.output, table)
    losses = [expected_loss(table, point.scheme) for point in frontier.points]
    figure = _figure(6.4, 4.4)
    axes = figure.subplots()
    axes.step(frontier.used(), losses, where="post", color=LINES[1], linewidth=1.2)
    axes.plot(frontier.used(), losses, ".", color=LINES[1], markersize=4, label="frontier")
    if frontier.kind == "size":
        for index, scheme in enumerate(schemes):
            bits = sum(entry.parameters * scheme.layers[entry.layer].weight_bits for entry in table.layers)
            size, loss = bits / 8 / BYTES_PER_MB, expected_loss(table, scheme)
            axes.plot([size], [loss], "os^Dv"[index % 5], markersize=6, markerfacecolor="none", color="black")
            axes.annotate(scheme.name, (size, loss), xytext=(6, 5), textcoords="offset points", fontsize=8)
    if min(losses) > 0:
        axes.set_yscale("log")
    axes.set_xlabel(f"{frontier.kind} ({frontier.unit})")
    axes.set_ylabel("sum of the layers' sensitivities")
    axes.set_title(f"{table.model}: the best scheme for every {frontier.kind}")
    axes.margins(x=0.08)
    axes.legend(fontsize=8, frameon=False)
    axes.grid(alpha=0.25, which="both")
    _save(figure, path)


def expected_loss(table: SensitivityTable, scheme: Scheme) -> float:
    """Sum over all layers, the pinned ones too, of what the search minimises."""
    return sum(entry.loss_increase(scheme.layers[entry.layer]) for entry in table.layers)


def _short(layer: str) -> str:
    """Layer names without the words that all of them share."""
    return layer.removeprefix("features.").removesuffix(".conv").replace(".body.", ".")


def _figure(width: float, height: float) -> Figure:
    """An empty one, in inches."""
    require("matplotlib", "a plot")
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _save(figure: Figure, path: str | Path) -> None:
    write_atomically(path, lambda temporary: figure.savefig(temporary, dpi=DPI, format="png"))
