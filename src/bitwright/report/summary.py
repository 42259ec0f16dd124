# SPDX-License-Identifier: MIT
"""What a captured network is and costs, on one screen."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from bitwright.graph import Graph, float_cost, layer_costs, parameter_count, scheme_cost
from bitwright.scheme import Precision, Scheme

UNIFORM = (Precision(8, 8), Precision(4, 4), Precision(2, 2))


def graph_summary(graph: Graph) -> dict[str, Any]:
    """Counts of a network, and its cost in float and at uniform precisions with 8-bit first and last layers."""
    costs = layer_costs(graph)
    full = float_cost(graph)
    rows = {"float": {"size_mb": full.size_mb, "bops_g": full.bops_g}}
    for precision in UNIFORM:
        cost = scheme_cost(costs, Scheme.uniform(costs, precision))
        rows[str(precision)] = {"size_mb": cost.size_mb, "bops_g": cost.bops_g}
    return {
        "model": graph.model,
        "input_shape": list(graph.input_shape),
        "layers": len(costs),
        "parameters": parameter_count(graph),
        "macs": sum(cost.macs for cost in costs.values()),
        "costs": rows,
    }


def summary_table(summary: dict[str, Any]) -> Table:
    """The same for the terminal."""
    shape = "x".join(map(str, summary["input_shape"]))
    title = (
        f"{summary['model']}: {summary['layers']} layers, {summary['parameters']:,} parameters, "
        f"{summary['macs']:,} MACs for an image of {shape}"
    )
    table = Table("Precision", "Model size (MB)", "BOPs (G)", title=title, title_justify="left")
    for name, cost in summary["costs"].items():
        table.add_row(name, f"{cost['size_mb']:.2f}", f"{cost['bops_g']:.2f}")
    return table
