# SPDX-License-Identifier: MIT
"""Activation memory against a literal simulation of one image passing through the network."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bitwright.allocation import allocate, allocation_problem, peak_activation
from bitwright.errors import BudgetError
from bitwright.graph import Graph, layer_costs
from bitwright.graph.nodes import Add, Dropout, Flatten, Layer, Slice
from bitwright.scheme import Budget, Precision
from graph.networks import Called, captured

VIEWS = (Flatten, Dropout, Slice)


def residual() -> Graph:
    """A convolution, a pooled branch added to it, a flattened classifier."""

    def forward(self: nn.Module, images: torch.Tensor) -> torch.Tensor:
        stem = torch.relu(self.stem(images))
        branch = self.right(torch.relu(self.left(stem)))
        return self.head(nn.functional.max_pool2d(torch.relu(stem + branch), 2).flatten(1))

    return captured(
        Called(
            forward,
            stem=nn.Conv2d(3, 6, 3, padding=1),
            left=nn.Conv2d(6, 4, 1),
            right=nn.Conv2d(4, 6, 3, padding=1),
            head=nn.Linear(96, 5),
        )
    )


GRAPH = residual()


def simulated(graph: Graph, choice: Mapping[str, Precision]) -> int:
    """Bits at the worst moment: walk through the nodes, keep what somebody still reads, store at what its readers want."""

    def wanted(name: str) -> int:
        bits = [32] if name in graph.returned else []
        for reader in graph.consumers()[name]:
            if isinstance(reader, Layer):
                bits.append(choice[reader.name].act_bits)
            elif isinstance(reader, Add):
                bits.append(8)
            else:
                bits.append(wanted(reader.name))
        return max(bits)

    def needed_after(name: str, step: int) -> bool:
        readers = graph.consumers()[name]
        places = [index for index, node in enumerate(graph) if node in readers]
        if name in graph.returned or any(place > step for place in places):
            return True
        return any(isinstance(reader, VIEWS) and needed_after(reader.name, step) for reader in readers)

    worst = 0
    for step, node in enumerate(graph):
        made = [other for other in graph.nodes[: step + 1] if not isinstance(other, VIEWS)]
        alive = [other for other in made if other is node or needed_after(other.name, step - 1)]
        worst = max(worst, sum(prod(other.shape) * wanted(other.name) for other in alive))
    return worst


@given(st.lists(st.integers(2, 8), min_size=4, max_size=4))
def test_the_peak_is_that_of_a_simulation(bits: list[int]) -> None:
    """For any activation bits; and the linear row equals the peak at its choice and exceeds it nowhere."""
    usage = peak_activation(GRAPH)
    choice = {layer: Precision(8, act) for layer, act in zip(GRAPH.layers, bits, strict=True)}
    assert usage.of(choice) == simulated(GRAPH, choice)
    row = usage.row(choice)

    def linear(other: Mapping[str, Precision]) -> int:
        return row.constant + sum(table[other[layer]] for layer, table in row.amounts.items())

    assert linear(choice) == usage.of(choice)
    for act in range(2, 9):
        other = {layer: Precision(8, act) for layer in GRAPH.layers}
        assert linear(other) <= usage.of(other)


def test_a_budget_of_activation_memory_holds() -> None:
    """What is found fits; what cannot be reached is refused with the smallest reachable value."""
    usage, layers = peak_activation(GRAPH), list(GRAPH.layers)
    choices = [Precision(8, act) for act in range(2, 9)]
    losses = {layer: {precision: 2.0**-precision.act_bits for precision in choices} for layer in layers}
    problem = allocation_problem(losses, layer_costs(GRAPH), choices=choices, usages=[usage])
    low, high = problem.reach("activation")
    assert low < high
    for part in (0.0, 0.3, 0.7, 1.0):
        found = allocate(problem, [Budget("activation", part, relative=True)])
        assert usage.of(found.scheme.layers) <= low + part * (high - low)
        assert usage.busiest(found.scheme.layers) in {node.name for node in GRAPH}
    with pytest.raises(BudgetError, match=r"no allocation fits .* MB: the smallest \(all W8A2\) needs"):
        allocate(problem, [Budget("activation", low / 2**23 / 2)])


@pytest.mark.parametrize("residual_bits", [8, 16])
def test_a_found_scheme_has_the_streams_that_were_counted(residual_bits: int) -> None:
    """Twice the streams count twice in the budget, and are in the scheme that is saved."""
    losses = {layer: {Precision(8, 8): 0.0, Precision(4, 4): 1.0} for layer in GRAPH.layers}
    problem = allocation_problem(
        losses,
        layer_costs(GRAPH),
        choices=[Precision(4, 4), Precision(8, 8)],
        usages=[peak_activation(GRAPH, residual_bits)],
        residual_bits=residual_bits,
    )
    found = allocate(problem, [Budget("activation", 1.0)])
    assert found.scheme.residual_bits == residual_bits
    # At the addition the stem, the branch and their sum live: 6 channels of 8 x 8 each, the sum at what the head wants.
    assert problem.reach("activation")[1] >= 6 * 64 * (2 * residual_bits + 8)
