# SPDX-License-Identifier: MIT
"""Why a published figure differs from the recomputed one: the conventions that the published table mixes.

No single convention gives all printed figures. Ours (see `graph.cost`) is never bent to fit; these are hypotheses about how the
printed ones came about, each of which is recomputed and given as the reason only where it yields the very digits:

- Bit operations of quantized rows: with F the multiply-accumulates of pytorchcv's own table and *interior* all layers but the
  first and the last, `sum(interior MACs * bits**2 / 1024) + (F - sum(interior MACs)) / 16`, in 10**9: 32 * 32 was taken for
  1000, and all that is not interior for 8 bits.
- Bit operations of float rows: F * 1024.
- Size of mixed rows: the interior weights plus a constant that was fitted (its origin is unknown), in 2**20 bytes for ResNet18
  and in 10**6 bytes for ResNet50.
- Size of an 8-bit row: a quarter of the published float size.
- One published configuration differs in one layer from the row that its file is named after.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import ROUND_HALF_UP, Decimal

from bitwright.cost import LayerCost
from bitwright.scheme import Precision, Scheme
from bitwright.zoo.names import layer_name
from bitwright.zoo.registry import Row, fitted_size_offset, networks, printed_bits, rows


@dataclass(frozen=True)
class Hypothesis:
    """How a published figure may have come about.

    Attributes:
        value: What it would be, in the unit of the table.
        text: In words.
    """

    value: float
    text: str


def printed(value: float, decimals: int) -> str:
    """A figure as the table prints it: rounded, halves up.

    >>> printed(24.45, 1), printed(116.1, 0)
    ('24.5', '116')
    """
    return str(Decimal(repr(value)).quantize(Decimal(1).scaleb(-decimals), ROUND_HALF_UP))


def reason(published: float, decimals: int, hypotheses: Iterator[Hypothesis]) -> str:
    """The first hypothesis that yields the printed digits, else that none does."""
    tried = list(hypotheses)
    for hypothesis in tried:
        if printed(hypothesis.value, decimals) == printed(published, decimals):
            return f"{hypothesis.text}: {hypothesis.value:.2f}"
    if not tried:
        return "unexplained"
    return "unexplained; " + "; ".join(f"{hypothesis.text}: {hypothesis.value:.2f}" for hypothesis in tried)


def size_hypotheses(row: Row, costs: Mapping[str, LayerCost], scheme: Scheme | None) -> Iterator[Hypothesis]:
    """Of the published size of a row, whose scheme is None where it is float."""
    if scheme is None:
        return
    if row.scheme == "uniform8":
        published_float = next(other.size_mb for other in rows() if other.model == row.model and other.is_float)
        yield Hypothesis(published_float / 4, "a quarter of the published float size")
        return
    unit_bytes, offset_mb = fitted_size_offset(row.model)
    unit = "2**20" if unit_bytes == 2**20 else "10**6"
    text = f"interior in {unit} bytes, plus {offset_mb} (fitted)"
    yield Hypothesis(_interior_bytes(costs, scheme) / unit_bytes + offset_mb, text)
    for other, change in _printed_schemes(row, scheme):
        yield Hypothesis(_interior_bytes(costs, other) / unit_bytes + offset_mb, f"{text}, {change}")


def bops_hypotheses(row: Row, costs: Mapping[str, LayerCost], scheme: Scheme | None) -> Iterator[Hypothesis]:
    """Of the published bit operations of a row, whose scheme is None where it is float."""
    flops = networks()[row.model].published_flops
    if scheme is None:
        yield Hypothesis(flops * 1024 / 1e9, "pytorchcv's FLOPs * 1024")
        return
    text = "pytorchcv's FLOPs, 1000 for 1024 in the interior"
    yield Hypothesis(_notebook_bops(costs, scheme, flops), text)
    for other, change in _printed_schemes(row, scheme):
        yield Hypothesis(_notebook_bops(costs, other, flops), f"{text}, {change}")


def _interior(costs: Mapping[str, LayerCost]) -> list[LayerCost]:
    """All layers but the first and the last."""
    return list(costs.values())[1:-1]


def _interior_bytes(costs: Mapping[str, LayerCost], scheme: Scheme) -> float:
    return sum(cost.size_bytes(scheme.layers[cost.layer]) for cost in _interior(costs))


def _notebook_bops(costs: Mapping[str, LayerCost], scheme: Scheme, flops: int) -> float:
    interior = _interior(costs)
    counted = sum(cost.bops(scheme.layers[cost.layer]) for cost in interior) / 1024
    return (counted + (flops - sum(cost.macs for cost in interior)) / 16) / 1e6


def _printed_schemes(row: Row, scheme: Scheme) -> Iterator[tuple[Scheme, str]]:
    """The scheme that the printed row had, where the published configuration is another one."""
    changes = {layer_name(module): bits for module, bits in printed_bits(row.name).items()}
    if changes:
        precisions = {layer: Precision(bits, bits) for layer, bits in changes.items()}
        words = ", ".join(f"{layer} at {bits} bits" for layer, bits in changes.items())
        yield replace(scheme, layers={**scheme.layers, **precisions}), f"with {words}, unlike the published bits"
