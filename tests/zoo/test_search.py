# SPDX-License-Identifier: MIT
"""From the published sensitivities and latencies, the search gives the published schemes."""

from __future__ import annotations

import pytest

from bitwright.allocation import allocate
from bitwright.errors import UnknownNameError
from bitwright.scheme import Budget
from bitwright.zoo.search import (
    mixed_schemes,
    published_latency_table,
    published_losses,
    published_problem,
    repeat_search,
)


@pytest.mark.parametrize("model", ["resnet18", "resnet50"])
def test_all_published_schemes(model: str) -> None:
    """17 of the 18 published schemes are found exactly; for resnet50-size0.25 the search finds a better one."""
    results = [repeat_search(model, scheme) for scheme in mixed_schemes(model)]
    assert len(results) == 9
    others = {result.scheme: result for result in results if not result.same}
    assert set(others) == ({"size0.25"} if model == "resnet50" else set())
    for result in results:
        assert result.found.objective <= result.published_loss
    for result in others.values():
        assert result.differences == ("features.stage3.unit6.body.conv1.conv",)
        assert result.found.objective < result.published_loss - 0.008


def test_another_latency_budget() -> None:
    """The T4 latencies serve any budget: a little more time than a published scheme takes, and its loss or less."""
    problem = published_problem("resnet18")
    allocation = allocate(problem, [Budget("latency", 4.25)])
    tighter = allocate(problem, [Budget("latency", 4.2)])
    table = published_latency_table("resnet18")
    for found, limit in ((allocation, 4.25), (tighter, 4.2)):
        layers = found.scheme.layers
        spent = sum(table.by_layer[layer][layers[layer]] for layer in table.by_layer)
        assert spent <= limit
    assert tighter.objective > allocation.objective


def test_the_latency_table_serves_the_network(zoo_graph) -> None:
    """It covers every layer of the captured graph, by its own name."""
    graph = zoo_graph("resnet18")
    problem = published_problem("resnet18")
    found = published_latency_table("resnet18").for_graph(graph, problem.choices)
    assert set(found) == set(graph.layers)
    assert all(value == 0 for value in found["output"].values())


def test_networks_without_published_inputs() -> None:
    """Others are refused by name."""
    with pytest.raises(UnknownNameError, match=r"unknown network with published sensitivities 'resnet101'"):
        published_losses("resnet101")
