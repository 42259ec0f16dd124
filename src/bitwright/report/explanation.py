# SPDX-License-Identifier: MIT
"""Why each layer has its bits, what that costs and saves, where the signal goes, and what was proved: one page for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from bitwright.allocation import LatencyTable, layer_shapes
from bitwright.allocation.origin import check_origin
from bitwright.auto import Measured, Searched
from bitwright.cost import BYTES_PER_MB
from bitwright.errors import UnknownNameError
from bitwright.files import write_text
from bitwright.graph import Graph, layer_costs, scheme_cost
from bitwright.integer import IntegerModel
from bitwright.report.layers import LayerComparison, first_fallen, largest_fall, where_it_falls
from bitwright.report.page import Point, bars, facts, folded, histograms, page, paragraph, scatter, section, table
from bitwright.scheme import Precision, Scheme
from bitwright.sensitivity import SensitivityTable


@dataclass(frozen=True)
class Explained:
    """What a page explains; what is left out has no section.

    Attributes:
        graph: The float network.
        model: Its integers; their scheme is explained.
        sensitivities: What the search believed; None for bits that no search chose.
        choices: What each layer might have had.
        layers: Of `compare_layers`.
        searched: What `bitwright auto` measured.
        latency: Milliseconds of layers.
    """

    graph: Graph
    model: IntegerModel
    sensitivities: SensitivityTable | None = None
    choices: tuple[Precision, ...] = ()
    layers: tuple[LayerComparison, ...] = ()
    searched: Searched | None = None
    latency: LatencyTable | None = None

    @property
    def scheme(self) -> Scheme:
        """Bits of every layer."""
        return self.model.scheme


def explain(what: Explained, path: str | Path) -> None:
    """Write one HTML file that needs no other, atomically.

    Args:
        what: Is explained.
        path: Of the file.

    Raises:
        SchemeError: If the scheme is of another network.
        DataError: If sensitivities or latencies are.
    """
    what.scheme.check(what.graph.layers)
    if what.sensitivities is not None:
        check_origin(what.graph, what.sensitivities, what.latency, force=False)
    title = f"{what.graph.model}: {what.scheme.name}"
    parts = [f"<h1>{escape(title)}</h1>", *_summary(what), *_frontier(what.searched), *_bits(what), *_signal(what)]
    write_text(path, page(title, [*parts, _proofs(what.model), *_latencies(what)]))


def _summary(what: Explained) -> Iterator[str]:
    """What was measured, and what it costs."""
    costs = layer_costs(what.graph)
    cost = scheme_cost(costs, what.scheme)
    rows = [("weights", f"{cost.size_mb:.3f} MB"), ("bit operations", f"{cost.bops_g:.3f} G")]
    found = what.searched
    if found is not None:
        drop, error = 100 * found.integers.drop, 100 * found.integers.drop_error
        rows = [
            ("float network", f"{_percent(found.floats)} right of {found.floats.images:,} images"),
            ("integers", f"{_percent(found.integers)} right"),
            ("drop", f"{drop:.2f} ± {error:.2f} points, on the same images"),
            *rows,
            ("one image", f"{found.integers_ms:.3f} ms; float {found.float_ms:.3f} ms"),
            ("all logits equal", f"{found.equal[0]:,} of {found.equal[1]:,} images"),
            ("the file", found.checked),
        ]
    if what.model.preprocessing is not None:
        rows.append(("images", str(what.model.preprocessing)))
    yield section("What it is", facts(rows))


def _percent(measured: Measured) -> str:
    return f"{100 * measured.top1:.2f} ± {100 * measured.top1_error:.2f} %"


def _frontier(found: Searched | None) -> Iterator[str]:
    """Expected losses of the best schemes, and what the measured ones really lose."""
    if found is None or found.frontier is None:
        return
    frontier = found.frontier
    cost_name = f"{frontier.kind} ({frontier.unit})"
    used = {point.scheme: point.used for point in frontier.points}
    points = [
        Point(point.used, point.objective, label=f"{point.scheme}: {point.objective:.3g}",
              marked=point.scheme == found.scheme, joined=True)
        for point in frontier.points
    ]  # fmt: skip
    caption = "The best scheme at each cost; the chosen one stands out."
    expected = scatter(points, cost_name, "expected loss", caption, logarithmic=True)
    tried = sorted((entry for entry in found.tried if entry[1] in used), key=lambda entry: used[entry[1]])
    chosen = [(way, name) == (found.way, found.scheme) for way, name, _ in tried]
    measured = [
        Point(used[name], 100 * entry.top1, 100 * entry.drop_error, f"{name}, {way}: {_percent(entry)}", marked)
        for (way, name, entry), marked in zip(tried, chosen, strict=True)
    ]
    caption = "Those whose integers were measured; bars are the standard error of the drop."
    rows = [
        (
            name,
            way,
            f"{used[name]:.3f}",
            f"{100 * entry.top1:.2f}",
            f"{100 * entry.drop:.2f} ± {100 * entry.drop_error:.2f}",
        )
        for way, name, entry in tried
    ]
    yield section(
        "What could have been had",
        expected,
        scatter(measured, cost_name, "right (%)", caption),
        table(
            ("scheme", "made", cost_name, "right (%)", "drop (points)"),
            rows,
            [place for place, own in enumerate(chosen) if own],
        ),
    )


def _bits(what: Explained) -> Iterator[str]:
    """Sensitivity of each layer, and what its other choices would cost and save."""
    if what.sensitivities is None:
        return
    costs, own = layer_costs(what.graph), what.scheme.layers
    losses: list[tuple[str, float, float, bool]] = []
    layers: list[str] = []
    for layer, precision in own.items():
        entry, cost = what.sensitivities.find(layer), costs[layer]
        curved, error = entry.mean_trace(), entry.mean_trace_standard_error()
        traced = f"mean curvature {curved:.3g} ± {error:.2g} over {entry.parameters:,} weights"
        try:
            loss, error = entry.loss_increase(precision), entry.loss_increase_standard_error(precision)
        except UnknownNameError:  # first and last layers may have widths that were not measured
            layers.append(folded(layer, f"{precision}", paragraph(traced)))
            continue
        losses.append((f"{layer} {precision}", loss, error, False))
        rows = []
        for choice in what.choices:
            try:
                other = entry.loss_increase(choice)
            except UnknownNameError:
                continue
            size = (cost.size_bytes(choice) - cost.size_bytes(precision)) / BYTES_PER_MB
            bops = (cost.bops(choice) - cost.bops(precision)) / 1e9
            rows.append((str(choice), f"{other - loss:+.3g}", f"{size:+.4f}", f"{bops:+.4f}"))
        marked = [place for place, row in enumerate(rows) if row[0] == str(precision)]
        parts = [paragraph(traced + ("" if entry.converged else "; it missed its target, so this is uncertain"))]
        if rows:
            parts.append(table(("instead", "expected loss", "weights (MB)", "bit operations (G)"), rows, marked))
        layers.append(folded(layer, f"{precision}, expected loss {loss:.3g} ± {error:.2g}", *parts))
    caption = "What each layer is expected to cost the loss at its bits, with standard errors."
    how = (
        "Bits go where they are worth most: a layer keeps many where the loss is curved and rounding moves its weights far, few "
        f"where not. Measured as {what.sensitivities.metric} on {what.sensitivities.batch:,} images. Layers that read one tensor "
        "share their activation bits, so that a choice can hang on another layer's."
    )
    yield section("Why each layer has its bits", paragraph(how), bars(losses, caption), *layers)


def _signal(what: Explained) -> Iterator[str]:
    """Float against integers, tensor by tensor."""
    if not what.layers:
        return
    first, worst = first_fallen(what.layers), largest_fall(what.layers)
    values = [(entry.layer, entry.snr_db, 0.0, entry is worst or entry is first) for entry in what.layers]
    parts = [
        paragraph(f"Signal-to-noise ratio against the float network: {where_it_falls(what.layers)}."),
        bars(values, "Decibels."),
    ]
    for entry in what.layers:
        side = "below" if (entry.fall_db or 0.0) >= 0 else "above"
        fall = "" if entry.fall_db is None else f", {abs(entry.fall_db):.1f} dB {side} what it reads"
        bits = "sums" if entry.bits is None else f"{entry.bits} bits"
        text = f"{entry.snr_db:.1f} dB{fall}, {100 * entry.clamped:.2f} % clamped, {bits}"
        drawn = histograms(
            entry.low, entry.high, entry.float_counts, entry.integer_counts,
            "Float values (filled) and what the integers stand for (line); heights are roots of counts.",
        )  # fmt: skip
        parts.append(folded(entry.layer, text, drawn, marked=entry is worst or entry is first))
    yield section("Float against integers", *parts)


def _proofs(model: IntegerModel) -> str:
    """Certificates in words."""
    how = (
        "The sums of a channel are rescaled by a fraction that is proved to round as the exact ratio does on all that can occur: "
        "every engine computes these integers. Checked again when the model is loaded."
    )
    return section(
        "What was proved", paragraph(how), *(folded(name, *_proved(found)) for name, found in model.facts.items())
    )


def _proved(found: Mapping[str, Any]) -> Sequence[str]:
    """A summary and what is behind it."""
    ways = {
        "theorem_a": "by a bound on the shift (theorem A)", "theorem_b": "by their rounding thresholds (theorem B)",
        "exhaustive": "by going through every input",
    }  # fmt: skip
    counts = [f"{found[key]:,} {words}" for key, words in ways.items() if found.get(key)]
    lines = [f"Channels proved: {', '.join(counts)}."] if counts else []
    if found.get("every_int32"):
        lines.append(f"{found['every_int32']:,} of them hold for every 32-bit sum, not only for those that can occur.")
    largest = found.get("largest_accumulator") or found.get("largest_sum")
    if largest:
        lines.append(f"No sum can exceed {largest:,}; 32 bits hold {2**31 - 1:,}.")
    if "avx2_safe" in found:
        safe = "cannot saturate" if found["avx2_safe"] else "could saturate, so that files for any CPU avoid them"
        lines.append(f"The 16-bit sums of CPUs without 8-bit dot products {safe}.")
    if found.get("largest_relative_change"):
        lines.append(
            f"Fractions differ from the exact ratios by at most {found['largest_relative_change']:.2g} of them."
        )
    return [f"{found['channels']:,} channels" if "channels" in found else "", *map(paragraph, lines)]


def _latencies(what: Explained) -> Iterator[str]:
    """Milliseconds of each layer, where they were measured."""
    if what.latency is None:
        return
    shapes, own = layer_shapes(what.graph), what.scheme.layers
    values, missing = [], []
    for layer, precision in own.items():
        try:
            ms = what.latency.lookup({layer: shapes[layer]}, {layer: [precision]})[layer][precision]
        except UnknownNameError:
            missing.append(f"{layer} {precision}")
            continue
        values.append((f"{layer} {precision}", ms, 0.0, False))
    where = f"Milliseconds on {what.latency.device}, {what.latency.engine}, {what.latency.batch} at a time."
    parts = [bars(values, where)]
    if missing:
        parts.append(paragraph(f"Not in the table, so not timed: {', '.join(missing)}."))
    yield section("How long each layer takes", *parts)
