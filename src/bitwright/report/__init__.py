# SPDX-License-Identifier: MIT
"""What people look at: tables for the terminal and for Markdown, plots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bitwright.lazy import lazily

if TYPE_CHECKING:
    from bitwright.report.lowering import lowering_summary, lowering_table
    from bitwright.report.plots import expected_loss, plot_bits, plot_frontier
    from bitwright.report.rows import Row, RowTable
    from bitwright.report.sensitivities import sensitivity_table
    from bitwright.report.summary import graph_summary, summary_table

_SOURCES = {
    "Row": "rows",
    "RowTable": "rows",
    "expected_loss": "plots",
    "graph_summary": "summary",
    "lowering_summary": "lowering",
    "lowering_table": "lowering",
    "plot_bits": "plots",
    "plot_frontier": "plots",
    "sensitivity_table": "sensitivities",
    "summary_table": "summary",
}

__all__ = [
    "Row",
    "RowTable",
    "expected_loss",
    "graph_summary",
    "lowering_summary",
    "lowering_table",
    "plot_bits",
    "plot_frontier",
    "sensitivity_table",
    "summary_table",
]

__getattr__ = lazily(__name__, _SOURCES)


def __dir__() -> list[str]:
    return __all__
