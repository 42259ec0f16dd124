# SPDX-License-Identifier: MIT
"""What is to be decided: the precisions each layer may have, what they cost, and which layers go together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

from bitwright.allocation.activation import peak_activation
from bitwright.allocation.latency import LatencyTable
from bitwright.allocation.options import Int64, Options, make_options
from bitwright.allocation.origin import check_origin
from bitwright.allocation.usage import Choice, Row, Usage, bops_usage, latency_usage, size_usage
from bitwright.errors import BudgetError, SchemeError, unknown_name
from bitwright.graph import Graph, LayerCost, layer_costs
from bitwright.graph import ties as graph_ties
from bitwright.graph.digest import network_digest
from bitwright.scheme import MAX_BITS, Precision, Scheme
from bitwright.sensitivity import SensitivityTable

Losses = Mapping[str, Mapping[Precision, float]]


@dataclass(frozen=True)
class Problem:
    """A search, without its budgets. Made by `allocation_problem` or `graph_problem`.

    Attributes:
        choices: The precisions that each layer may have, in execution order of the layers; a pinned layer has one.
        losses: Expected increase of the loss, by layer and precision.
        usages: What can be limited, by kind of budget.
        ties: Layers that must have the same activation bits.
        pinned: Layers whose precision was given.
        unconverged: Layers whose sensitivity missed its target.
        residual_bits: The residual bits of the schemes that are found.
        network: SHA-256 of the network; None where it is not known.
        images: SHA-256 of the images that the losses were measured on; None where they are not known.
        output: Of a network with several outputs, the one whose loss was measured; None for that of all.
        forced: What does not fit and was forced.
    """

    choices: Mapping[str, tuple[Precision, ...]]
    losses: Losses
    usages: Mapping[str, Usage]
    ties: tuple[tuple[str, ...], ...] = ()
    pinned: frozenset[str] = frozenset()
    unconverged: frozenset[str] = frozenset()
    residual_bits: int = MAX_BITS
    network: str | None = None
    images: str | None = None
    output: str | None = None
    forced: tuple[str, ...] = ()

    @cached_property
    def options(self) -> Options:
        """The choices as arrays."""
        return make_options(self.losses, self.choices, self.ties)

    def scheme(self, name: str, choice: Choice) -> Scheme:
        """A choice as a scheme."""
        return Scheme(name, choice, self.residual_bits)

    def loss(self, choice: Choice) -> float:
        """The objective: the sum of the layers' losses."""
        return math.fsum(self.losses[layer][precision] for layer, precision in choice.items())

    def usage(self, kind: str) -> Usage:
        """What budgets of a kind limit.

        Raises:
            BudgetError: If the problem has no figures for it.
        """
        if kind in self.usages:
            return self.usages[kind]
        measured = "a latency table, which `bitwright bench layers` measures (--latency-table FILE)"
        needs = {"latency": measured, "activation": "the graph"}.get(kind, "costs")
        raise BudgetError(f"a budget of {kind} needs {needs}; this search has figures for {', '.join(self.usages)}.")

    def first_amounts(self, kind: str) -> tuple[Int64, int]:
        """What each option adds to the usage of a kind where that is largest, and the constant of this sum."""
        if kind not in self._first_amounts:
            usage = self.usage(kind)
            row = usage.row(self.extreme(kind, largest=True))
            keys, by_key = self._keys(kind)
            amounts = by_key if row.amounts is keys.amounts else self.options.amounts(row)
            self._first_amounts[kind] = (amounts, row.constant)
        return self._first_amounts[kind]

    def _keys(self, kind: str) -> tuple[Row, Int64]:
        """What orders the options of a group by a usage, and its amount for each option."""
        if kind not in self._kept_keys:
            row = self.usage(kind).keys(self.choices)
            self._kept_keys[kind] = (row, self.options.amounts(row))
        return self._kept_keys[kind]

    @cached_property
    def _kept_keys(self) -> dict[str, tuple[Row, Int64]]:
        return {}

    def reach(self, kind: str) -> tuple[int, int]:
        """The smallest and the largest usage, in whole units, that are reachable without other budgets."""
        if kind not in self._reach:
            smallest, largest = (self.usage(kind).of(self.extreme(kind, largest)) for largest in (False, True))
            self._reach[kind] = (smallest, largest)
        return self._reach[kind]

    @cached_property
    def _first_amounts(self) -> dict[str, tuple[Int64, int]]:
        return {}

    @cached_property
    def _reach(self) -> dict[str, tuple[int, int]]:
        return {}

    def extreme(self, kind: str, largest: bool = False) -> Choice:
        """A choice of the smallest (or largest) usage that is reachable without other budgets."""
        if kind not in self._extremes:
            (_, amounts), options = self._keys(kind), self.options
            parts = list(pairwise(options.starts.tolist()))
            least, most = (
                self.ordered(options.choice([start + int(side[start:stop].argmin()) for start, stop in parts]))
                for side in (amounts, -amounts)
            )
            self._extremes[kind] = (least, most)
        return self._extremes[kind][largest]

    @cached_property
    def _extremes(self) -> dict[str, tuple[Choice, Choice]]:
        return {}

    def ordered(self, choice: Choice) -> dict[str, Precision]:
        """The same choice in execution order."""
        return {layer: choice[layer] for layer in self.choices}


def allocation_problem(
    losses: Losses,
    costs: Mapping[str, LayerCost],
    *,
    choices: Iterable[Precision],
    ties: Iterable[Sequence[str]] = (),
    pinned: Mapping[str, Precision] | None = None,
    latency_ms: Losses | None = None,
    usages: Iterable[Usage] = (),
    unconverged: Iterable[str] = (),
    residual_bits: int = MAX_BITS,
) -> Problem:
    """State a search from plain figures.

    Args:
        losses: Expected increase of the loss, by layer and precision; a pinned layer may be left out, and then adds 0.
        costs: Weights and MACs of every layer, in execution order.
        choices: The precisions that a layer may have.
        ties: Layers that must have the same activation bits.
        pinned: Layers that have another precision, and only that.
        latency_ms: By layer and precision; may be left out.
        usages: Further figures to limit, for instance `peak_activation(graph)`.
        unconverged: Layers to be marked in what is found.
        residual_bits: The residual bits of the schemes that are found: 8 or 16.

    Raises:
        UnknownNameError: If layers or precisions do not match.
        SchemeError: If a loss is not finite, or tied layers have no activation bits in common.
    """
    allowed = tuple(dict.fromkeys(choices))
    pins = dict(pinned or {})
    tied = tuple(tuple(tie) for tie in ties)
    for layer in (*losses, *pins, *(layer for tie in tied for layer in tie)):
        if layer not in costs:
            raise unknown_name("layer", layer, costs)
    if not allowed and len(pins) < len(costs):
        raise BudgetError("a search needs at least one precision to choose from, for instance W4A4 and W8A8.")
    own = {layer: (pins[layer],) if layer in pins else allowed for layer in costs}
    own |= _in_common(own, tied)
    known = {
        layer: {precision: _loss(losses, layer, precision, layer in pins) for precision in precisions}
        for layer, precisions in own.items()
    }
    found: list[Usage] = [size_usage(costs, own), bops_usage(costs, own), *usages]
    if latency_ms is not None:
        found.append(latency_usage(latency_ms, own))
    return Problem(
        own,
        known,
        {usage.kind: usage for usage in found},
        tied,
        frozenset(pins),
        frozenset(unconverged) - frozenset(pins),
        residual_bits,
    )


def graph_problem(
    graph: Graph,
    table: SensitivityTable,
    *,
    choices: Iterable[Precision] = (Precision(4, 4), Precision(8, 8)),
    pinned: Mapping[str, Precision] | None = None,
    latency: LatencyTable | None = None,
    residual_bits: int = MAX_BITS,
    force: bool = False,
) -> Problem:
    """State a search for a network: costs, ties and activation memory follow from its graph.

    Args:
        graph: The network.
        table: Its sensitivities.
        choices: The precisions that a layer may have.
        pinned: Layers that have another precision, and only that; the first and last layer at W8A8 unless they are named
            here.
        latency: Measured latencies of its layers; may be left out.
        residual_bits: Width of the tensors that additions read: 8 or 16. They count as activation memory.
        force: Whether to take figures that were measured on another network; what is found then says so.

    Raises:
        DataError: If the table, or the latencies, were measured on another network, with other weights or at another input size.
        UnknownNameError: If the table lacks a layer or a precision.
        SchemeError: If tied layers have no activation bits in common.
    """
    allowed = tuple(choices)
    forced = check_origin(graph, table, latency, force=force)
    costs = layer_costs(graph)
    names = list(costs)
    pins = {layer: Precision(MAX_BITS, MAX_BITS) for layer in (names[0], names[-1])} | dict(pinned or {})
    wanted = {layer: (pins[layer],) if layer in pins else allowed for layer in names}
    found = allocation_problem(
        table_losses(table, {layer: wanted[layer] for layer in names if layer not in pins}),
        costs,
        choices=allowed,
        ties=graph_ties(graph),
        pinned=pins,
        latency_ms=None if latency is None else latency.for_graph(graph, wanted),
        usages=(peak_activation(graph, residual_bits),),
        unconverged=table.unconverged(),
        residual_bits=residual_bits,
    )
    return replace(found, network=network_digest(graph), images=table.images, output=table.output, forced=forced)


def table_losses(table: SensitivityTable, choices: Mapping[str, Iterable[Precision]]) -> Losses:
    """The losses of a table of sensitivities, for these layers and precisions.

    Raises:
        UnknownNameError: If the table lacks one.
    """
    return {
        layer: {precision: table.find(layer).loss_increase(precision) for precision in precisions}
        for layer, precisions in choices.items()
    }


def _loss(losses: Losses, layer: str, precision: Precision, pinned: bool) -> float:
    loss = losses.get(layer, {}).get(precision)
    if loss is None:
        if pinned:
            return 0.0  # a constant, which changes no choice
        known = ", ".join(str(other) for other in sorted(losses.get(layer, {}))) or "none"
        raise unknown_name(f"loss of layer '{layer}' at precision", str(precision), known.split(", "))
    if not math.isfinite(loss):
        raise SchemeError(f"the loss of layer '{layer}' at {precision} must be finite, got {loss}; measure it again.")
    return float(loss)


def _in_common(
    choices: Mapping[str, tuple[Precision, ...]], ties: Sequence[tuple[str, ...]]
) -> dict[str, tuple[Precision, ...]]:
    """For every tied layer, its precisions with activation bits that all layers of the tie can have."""
    left: dict[str, tuple[Precision, ...]] = {}
    for tie in ties:
        widths = [{precision.act_bits for precision in choices[layer]} for layer in tie]
        common = set.intersection(*widths)
        if not common:
            shown = "; ".join(f"'{layer}' may have {', '.join(map(str, choices[layer]))}" for layer in tie)
            raise SchemeError(f"tied layers read one tensor and need equal activation bits, but {shown}.")
        for layer in tie:
            left[layer] = tuple(precision for precision in choices[layer] if precision.act_bits in common)
    return left
