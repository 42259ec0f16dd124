# SPDX-License-Identifier: MIT
"""What people look at: tables for the terminal and for Markdown, plots."""

from bitwright.report.lowering import lowering_summary, lowering_table
from bitwright.report.plots import expected_loss, plot_bits, plot_frontier
from bitwright.report.rows import Row, RowTable
from bitwright.report.sensitivities import sensitivity_table
from bitwright.report.summary import graph_summary, summary_table

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
