# SPDX-License-Identifier: MIT
"""What budgets limit, in whole units: bits, bit operations, femtoseconds. Sums of whole numbers are exact."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import Protocol

from bitwright.cost import BYTES_PER_MB, LayerCost
from bitwright.scheme import BUDGET_UNITS, Budget, Precision

Choice = Mapping[str, Precision]
"""A precision for every layer."""

UNITS_PER = {"size": BYTES_PER_MB * 8, "bops": 10**9, "latency": 10**12, "activation": BYTES_PER_MB * 8}
"""Whole units in one MB, G or ms: bits, bit operations, femtoseconds, bits."""


@dataclass(frozen=True)
class Row:
    """A linear function of the choice: `constant` plus, for each layer, the amount of its precision.

    Attributes:
        amounts: Whole units by layer and precision; layers that are not named add nothing.
        constant: Added to their sum.
    """

    amounts: Mapping[str, Mapping[Precision, int]]
    constant: int = 0


class Usage(Protocol):
    """What a kind of budget limits: the largest of some linear functions of the choice."""

    @property
    def kind(self) -> str:
        """One of `BUDGET_UNITS`."""

    def of(self, choice: Choice) -> int:
        """Whole units that a choice uses."""

    def keys(self, choices: Mapping[str, Iterable[Precision]]) -> Row:
        """Orders the precisions of each layer: less is less usage, or as much, whatever the others choose."""

    def row(self, choice: Choice) -> Row:
        """A linear function that equals `of` at `choice` and exceeds it nowhere."""


@dataclass(frozen=True)
class Additive:
    """A usage that is a sum over the layers.

    Attributes:
        kind: What it is the usage of.
        amounts: Whole units by layer and precision.

    >>> bits = Additive("size", {"conv": {Precision(4, 4): 400, Precision(8, 8): 800}})
    >>> bits.of({"conv": Precision(4, 4)})
    400
    """

    kind: str
    amounts: Mapping[str, Mapping[Precision, int]]

    def of(self, choice: Choice) -> int:
        return sum(self.amounts[layer][precision] for layer, precision in choice.items())

    def keys(self, choices: Mapping[str, Iterable[Precision]]) -> Row:
        return Row(self.amounts)

    def row(self, choice: Choice) -> Row:
        return Row(self.amounts)


def size_usage(costs: Mapping[str, LayerCost], choices: Mapping[str, Iterable[Precision]]) -> Additive:
    """Bits of the weights of every layer at each of its precisions; biases and scales are not counted."""
    return Additive(
        "size",
        {
            layer: {precision: costs[layer].weights * precision.weight_bits for precision in precisions}
            for layer, precisions in choices.items()
        },
    )


def bops_usage(costs: Mapping[str, LayerCost], choices: Mapping[str, Iterable[Precision]]) -> Additive:
    """Bit operations for one image: MACs * weight bits * activation bits (HAWQ-V3, arXiv:2011.10680, section 3.4)."""
    return Additive(
        "bops",
        {
            layer: {precision: costs[layer].bops(precision) for precision in precisions}
            for layer, precisions in choices.items()
        },
    )


def latency_usage(
    latency_ms: Mapping[str, Mapping[Precision, float]], choices: Mapping[str, Iterable[Precision]]
) -> Additive:
    """Femtoseconds of every layer at each of its precisions, rounded once, far below what any clock resolves."""
    return Additive(
        "latency",
        {
            layer: {
                precision: round(Fraction(repr(float(latency_ms[layer][precision]))) * UNITS_PER["latency"])
                for precision in precisions
            }
            for layer, precisions in choices.items()
        },
    )


def whole_units(budget: Budget, smallest: int, largest: int) -> int:
    """The most whole units that a budget allows.

    A relative one allows `smallest + limit * (largest - smallest)`, as the model zoo's `size0.5` stands for half of the way
    between the 4-bit and the 8-bit model (HAWQ-V3, arXiv:2011.10680, section 4).

    >>> whole_units(Budget("size", 0.5, relative=True), 100, 201)
    150
    >>> whole_units(Budget("bops", 0.3), 0, 0)
    300000000
    """
    if budget.relative:
        return floor(smallest + budget.exact_limit() * (largest - smallest))
    return floor(budget.exact_limit() * UNITS_PER[budget.kind])


def in_units(kind: str, whole: int) -> float:
    """Whole units as MB, G or ms.

    >>> in_units("size", 2**24)
    2.0
    """
    return float(Fraction(whole, UNITS_PER[kind]))


def show(kind: str, whole: int, apart_from: int | None = None) -> str:
    """Whole units for people; with as many digits as it takes to tell them from another number.

    >>> show("size", 7 * 2**23), show("bops", 72 * 10**9 + 1, apart_from=72 * 10**9)
    ('7 MB', '72.000000001 GBOPs')
    """
    unit = "GBOPs" if kind == "bops" else BUDGET_UNITS[kind]
    digits = 4
    while (
        apart_from is not None
        and apart_from != whole
        and f"{in_units(kind, whole):.{digits}g}" == f"{in_units(kind, apart_from):.{digits}g}"
    ):
        digits += 1
    return f"{in_units(kind, whole):.{digits}g} {unit}"
