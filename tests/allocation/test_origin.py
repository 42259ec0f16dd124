# SPDX-License-Identifier: MIT
"""Figures of another network, of other weights or of another input size are refused, or said to be forced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bitwright.allocation import Allocation, LatencyTable, ParetoFrontier, allocate, graph_problem, pareto_frontier
from bitwright.allocation.shapes import layer_shapes, layers_digest
from bitwright.errors import DataError
from bitwright.graph import Graph, capture
from bitwright.report import plot_frontier
from bitwright.scheme import Budget, Precision
from bitwright.sensitivity import SensitivitySettings, SensitivityTable, measure_sensitivity
from reliability.networks import images, tiny, tiny_graph


@pytest.fixture(scope="module")
def graph() -> Graph:
    """A small network."""
    return tiny_graph()


@pytest.fixture(scope="module")
def table(graph: Graph) -> SensitivityTable:
    """Its sensitivities, measured."""
    return measure_sensitivity(graph, images(), torch.arange(4), SensitivitySettings(max_probes=10), data="noise")


def others(graph: Graph) -> dict[str, Graph]:
    """Networks whose layers have the same names."""
    changed = {name: value + 0.5 if name == "side.weight" else value for name, value in graph.parameters.items()}
    return {"input size": capture(tiny(), (1, 12, 12), name=graph.model), "weights": graph.with_parameters(changed)}


def latencies(graph: Graph) -> LatencyTable:
    """As if they had been measured on this network."""
    by_shape = {shape: {Precision(4, 4): 1.0, Precision(8, 8): 2.0} for shape in layer_shapes(graph).values()}
    return LatencyTable("a device", "an engine", 1, by_shape, network=layers_digest(graph))


def test_measured_figures_fit_their_network(graph: Graph, table: SensitivityTable, tmp_path: Path) -> None:
    """Also when both have been in files; what was found says whose it is."""
    graph.save(tmp_path / "graph")
    table.save(tmp_path / "table")
    latencies(graph).save(tmp_path / "latencies")
    loaded = Graph.load(tmp_path / "graph"), SensitivityTable.load(tmp_path / "table")
    problem = graph_problem(*loaded, latency=LatencyTable.load(tmp_path / "latencies"))
    assert (problem.network, problem.images, problem.forced) == (table.network, table.images, ())
    found = pareto_frontier(problem, "size", 3)
    found.save(tmp_path / "frontier")
    assert ParetoFrontier.load(tmp_path / "frontier") == found
    assert (found.network, found.images) == (table.network, table.images)


@pytest.mark.parametrize("kind", ["input size", "weights"])
def test_figures_of_another_network_are_refused(
    kind: str, graph: Graph, table: SensitivityTable, tmp_path: Path
) -> None:
    """The error has both digests; forced, the search goes on, and its results say so."""
    other = others(graph)[kind]
    with pytest.raises(DataError, match="another network, other weights, or another input size") as refused:
        graph_problem(other, table)
    problem = graph_problem(other, table, force=True)
    assert table.network is not None
    assert problem.network is not None
    for digest in (table.network, problem.network):
        assert digest[:12] in str(refused.value)
    found = allocate(problem, [Budget.parse("size0.5")])
    assert len(found.forced) == 1
    assert "warning, forced: the sensitivities are those of" in str(found)
    found.save(tmp_path / "allocation")
    assert Allocation.load(tmp_path / "allocation") == found
    assert pareto_frontier(problem, "size", 3).forced == found.forced


def test_latencies_of_other_layers_are_refused(graph: Graph, table: SensitivityTable) -> None:
    """Other weights take the same time; other shapes do not."""
    of_weights = latencies(others(graph)["weights"])
    assert graph_problem(graph, table, latency=of_weights).forced == ()
    elsewhere = replace(latencies(graph), network=layers_digest(others(graph)["input size"]))
    with pytest.raises(DataError, match=r"the latencies of a device are those of other layers"):
        graph_problem(graph, table, latency=elsewhere)
    assert len(graph_problem(graph, table, latency=elsewhere, force=True).forced) == 1


def test_figures_from_elsewhere_are_taken(graph: Graph, table: SensitivityTable) -> None:
    """Published tables say of no network that they are its own."""
    assert graph_problem(graph, replace(table, network=None, images=None)).forced == ()


@pytest.mark.parametrize("what", ["network", "images"])
def test_a_frontier_is_drawn_over_its_own_sensitivities(
    what: str, graph: Graph, table: SensitivityTable, tmp_path: Path
) -> None:
    """Those of other images are refused, too: losses of different images are no losses of one curve."""
    frontier = pareto_frontier(graph_problem(graph, table), "size", 3)
    plot_frontier(tmp_path / "own.png", frontier, table, [])
    with pytest.raises(DataError, match=f"the frontier is of the {what}"):
        plot_frontier(tmp_path / "other.png", frontier, replace(table, **{what: "0" * 64}), [])
    with pytest.raises(
        DataError, match=r"is of all outputs, but the sensitivities of '.*' are of the output 'boxes': tr"
    ):
        plot_frontier(tmp_path / "other.png", frontier, replace(table, output="boxes"), [])
    assert not (tmp_path / "other.png").exists()
    of_boxes = pareto_frontier(graph_problem(graph, replace(table, output="boxes")), "size", 3)
    of_boxes.save(tmp_path / "boxes.frontier")
    plot_frontier(
        tmp_path / "own.png", ParetoFrontier.load(tmp_path / "boxes.frontier"), replace(table, output="boxes"), []
    )
