# SPDX-License-Identifier: MIT
"""What is shown of values: one short line, and a table in notebooks, whatever they hold and whatever names are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from bitwright.allocation import allocate, graph_problem, pareto_frontier
from bitwright.integer import lower
from bitwright.overview import Overview, Overviewed
from bitwright.scheme import Budget, Precision
from bitwright.sensitivity import LayerSensitivity, SensitivityTable
from training.small import small_graph, small_quantized

CHOICES = (Precision(2, 8), Precision(8, 8))


def table() -> SensitivityTable:
    """Of the small network, made up."""
    entries = [LayerSensitivity(layer, 4, 6.0, 0.5, 10, True, {2: 0.2, 8: 0.1}) for layer in small_graph().layers]
    return SensitivityTable(tuple(entries), "trace", small_graph().model, "digits", 8, 0)


VALUES: dict[str, tuple[Callable[[], Overviewed], str]] = {
    "Graph": (small_graph, "layers, "),
    "SensitivityTable": (table, "trace of "),
    "Scheme": (lambda: small_quantized("W4A4").plan.scheme, "W4A4 to W8A8"),
    "Allocation": (
        lambda: allocate(graph_problem(small_graph(), table(), choices=CHOICES), [Budget("size", 1.0, "MB")]),
        "expected loss",
    ),
    "ParetoFrontier": (
        lambda: pareto_frontier(graph_problem(small_graph(), table(), choices=CHOICES), "size", 3), " MB"
    ),
    "QuantizedModel": (lambda: small_quantized("W4A4"), "scheme W4A4, "),
    "IntegerModel": (lambda: lower(small_quantized("W4A4")), " MB of weights"),
}  # fmt: skip


def test_every_kind_is_looked_at() -> None:
    """The table below lacks none."""
    assert {kind.__name__ for kind in Overviewed.__subclasses__() if kind.__module__.startswith("bitwright.")} == {
        *VALUES
    }


@pytest.mark.parametrize("kind", VALUES)
def test_a_line_and_a_table(kind: str) -> None:
    """The line says what it is in under 200 characters; the table names every layer, scheme or operation once."""
    make, words = VALUES[kind]
    value = make()
    line = repr(value)
    assert line.startswith(f"<{kind} ")
    assert words in line
    assert len(line) < 200
    assert "\n" not in line
    rows = value.overview().rows
    assert {len(row) for row in rows} == {len(value.overview().head)}
    assert value._repr_html_().count("<td>") == sum(map(len, rows))


def test_names_are_text() -> None:
    """A network's name is no code of a notebook's page."""
    shown = replace(small_graph(), model="<script>x</script>")._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


def test_without_rows() -> None:
    """What has nothing to list is a line."""

    class Nothing(Overviewed):
        def overview(self) -> Overview:
            return Overview("here", ("0 layers",), (), ())

    assert Nothing()._repr_html_() == "<p><b>Nothing here</b>: 0 layers</p>"
