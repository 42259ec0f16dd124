# SPDX-License-Identifier: MIT
"""Where the figures of a search come from: those of another network, of other weights or of another input size are refused."""

from __future__ import annotations

from collections.abc import Iterator

from bitwright.allocation.latency import LatencyTable
from bitwright.allocation.shapes import layers_digest
from bitwright.errors import DataError
from bitwright.graph import Graph
from bitwright.graph.digest import network_digest
from bitwright.sensitivity import SensitivityTable

_SHOWN = 12  # digits of a digest


def check_origin(
    graph: Graph, table: SensitivityTable, latency: LatencyTable | None, *, force: bool
) -> tuple[str, ...]:
    """Compare what a search is about with what its figures were measured on; figures that do not say are taken as they are.

    Args:
        graph: The network.
        table: Its sensitivities.
        latency: Latencies of its layers, or None.
        force: Whether to go on all the same.

    Returns:
        What does not fit, each in one sentence; nothing, unless forced.

    Raises:
        DataError: If something does not fit, and is not forced: it names both.
    """
    found = tuple(_mismatches(graph, table, latency))
    if found and not force:
        raise DataError(
            f"{' '.join(found)} Measure on this network, or force the search (--force), whose result then says so."
        )
    return found


def _mismatches(graph: Graph, table: SensitivityTable, latency: LatencyTable | None) -> Iterator[str]:
    own = network_digest(graph)
    if table.network not in (None, own):
        yield (
            f"the sensitivities are those of '{table.model}' (network {table.network[:_SHOWN]}…, measured on {table.data}), but "
            f"this is '{graph.model}' (network {own[:_SHOWN]}…): another network, other weights, or another input size."
        )
    if table.preprocessing is not None:
        others = list(table.preprocessing.differences(graph.preprocessing))
        if others:
            yield f"the sensitivities were measured on other images than '{graph.model}' reads: {'; '.join(others)}."
    layers = layers_digest(graph)
    if latency is not None and latency.network not in (None, layers):
        yield (
            f"the latencies of {latency.device} are those of other layers (layers {latency.network[:_SHOWN]}…) than "
            f"'{graph.model}' has (layers {layers[:_SHOWN]}…)."
        )


def require_same_origin(
    frontier_of: tuple[str | None, str | None], output: str | None, table: SensitivityTable
) -> None:
    """Refuse figures of a frontier beside those of a table of another network, other images or another output.

    Args:
        frontier_of: Digests of network and images of the frontier; None where it does not say.
        output: That the frontier's losses are of; None for those of all.
        table: The sensitivities.

    Raises:
        DataError: Names both.
    """
    for what, own, other in zip(("network", "images"), frontier_of, (table.network, table.images), strict=True):
        if own is not None and other is not None and own != other:
            raise DataError(
                f"the frontier is of the {what} {own[:_SHOWN]}…, but the sensitivities of '{table.model}' are of the {what} "
                f"{other[:_SHOWN]}…: trace the frontier from these sensitivities."
            )
    if output != table.output:
        own, other = (f"the output '{name}'" if name is not None else "all outputs" for name in (output, table.output))
        raise DataError(
            f"the frontier is of {own}, but the sensitivities of '{table.model}' are of {other}: trace the frontier from these "
            "sensitivities."
        )
