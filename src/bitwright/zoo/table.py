# SPDX-License-Identifier: MIT
"""The zoo's table: published and recomputed size and bit operations side by side, with the reason wherever they differ."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from bitwright.graph.capture import capture
from bitwright.graph.cost import LayerCost, ModelCost, float_cost, layer_costs, scheme_cost
from bitwright.graph.sources import load_model
from bitwright.progress import Progress, silent
from bitwright.scheme import Scheme
from bitwright.zoo.conventions import bops_hypotheses, printed, reason, size_hypotheses
from bitwright.zoo.names import FLOAT
from bitwright.zoo.registry import Row, networks, published_scheme, rows

SIZE_DECIMALS, BOPS_DECIMALS = 1, 0


@dataclass(frozen=True)
class NetworkCosts:
    """What a captured network costs.

    Attributes:
        layers: By layer name, in execution order.
        baseline: Of the float32 network.
    """

    layers: Mapping[str, LayerCost]
    baseline: ModelCost

    def of(self, scheme: Scheme | None) -> ModelCost:
        """Of the network under a scheme; None is float32."""
        return self.baseline if scheme is None else scheme_cost(self.layers, scheme)


@dataclass(frozen=True)
class Comparison:
    """One figure, published and recomputed.

    Attributes:
        published: As printed.
        recomputed: By the conventions of `graph.cost`.
        decimals: Printed places after the point.
        reason: Why the printed digits differ; empty where they agree.
    """

    published: float
    recomputed: float
    decimals: int
    reason: str

    @property
    def agrees(self) -> bool:
        return printed(self.published, self.decimals) == printed(self.recomputed, self.decimals)


@dataclass(frozen=True)
class TableRow:
    """A row of the zoo with its recomputed figures.

    Attributes:
        row: As published.
        size: In MB (2**20 bytes).
        bops: Bit operations for one image, in 10**9.
    """

    row: Row
    size: Comparison
    bops: Comparison


def image_size_of(model: str) -> int:
    """The image side that a network is counted at: the table's, and 224 for networks without a row, 299 for Inception."""
    known = networks()
    if model in known:
        return known[model].image_size
    return 299 if model.startswith("inception") else 224


@cache
def network_costs(model: str) -> NetworkCosts:
    """The counts of a network of the zoo, from its captured graph; some seconds the first time.

    Args:
        model: For instance `resnet18`.
    """
    side = image_size_of(model)
    graph = capture(load_model(f"pytorchcv:{model}"), (3, side, side), name=f"pytorchcv:{model}")
    return NetworkCosts(layer_costs(graph), float_cost(graph))


def scheme_of(row: Row, layers: Iterable[str] | None = None) -> Scheme | None:
    """The published bits of a row, or None for float."""
    return None if row.scheme == FLOAT else published_scheme(row.model, row.scheme, layers=layers)


def zoo_table(chosen: Iterable[Row] | None = None, *, progress: Progress = silent) -> tuple[TableRow, ...]:
    """Recompute size and bit operations of rows and compare them with the published ones.

    Args:
        chosen: Rows; None means all.
        progress: Told about every row.
    """
    wanted = rows() if chosen is None else tuple(chosen)
    made = []
    for done, row in enumerate(wanted, 1):
        made.append(_table_row(row, network_costs(row.model)))
        progress(done, len(wanted))
    return tuple(made)


def _table_row(row: Row, costs: NetworkCosts) -> TableRow:
    scheme = scheme_of(row, costs.layers)
    cost = costs.of(scheme)
    size = Comparison(row.size_mb, cost.size_mb, SIZE_DECIMALS, "")
    bops = Comparison(row.bops_g, cost.bops_g, BOPS_DECIMALS, "")
    if not size.agrees:
        why = reason(size.published, SIZE_DECIMALS, size_hypotheses(row, costs.layers, scheme))
        size = Comparison(row.size_mb, cost.size_mb, SIZE_DECIMALS, why)
    if not bops.agrees:
        why = reason(bops.published, BOPS_DECIMALS, bops_hypotheses(row, costs.layers, scheme))
        bops = Comparison(row.bops_g, cost.bops_g, BOPS_DECIMALS, why)
    return TableRow(row, size, bops)
