# SPDX-License-Identifier: MIT
"""What people look at: tables for the terminal and for Markdown, plots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitwright.lazy import lazily

if TYPE_CHECKING:
    from bitwright.report.explanation import Explained, explain
    from bitwright.report.layers import LayerComparison, compare_layers, layers_table, where_it_falls
    from bitwright.report.lowering import lowering_summary, lowering_table
    from bitwright.report.plots import expected_loss, plot_bits, plot_frontier
    from bitwright.report.rows import Row, RowTable
    from bitwright.report.sensitivities import sensitivity_table
    from bitwright.report.summary import graph_summary, summary_table

_SOURCES = {
    "Explained": "explanation",
    "LayerComparison": "layers",
    "Row": "rows",
    "RowTable": "rows",
    "compare_layers": "layers",
    "expected_loss": "plots",
    "explain": "explanation",
    "graph_summary": "summary",
    "layers_table": "layers",
    "lowering_summary": "lowering",
    "lowering_table": "lowering",
    "plot_bits": "plots",
    "plot_frontier": "plots",
    "sensitivity_table": "sensitivities",
    "summary_table": "summary",
    "where_it_falls": "layers",
}

__all__ = [
    "Explained",
    "LayerComparison",
    "Row",
    "RowTable",
    "compare_layers",
    "expected_loss",
    "explain",
    "graph_summary",
    "layers_table",
    "lowering_summary",
    "lowering_table",
    "plot_bits",
    "plot_frontier",
    "sensitivity_table",
    "summary_table",
    "where_it_falls",
]

__getattr__ = lazily(__name__, _SOURCES)


def __dir__() -> list[str]:
    return __all__
