# SPDX-License-Identifier: MIT
"""What a search found, and how firm it is: JSON, and text for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitwright.allocation.usage import in_units, show
from bitwright.decode import value_of
from bitwright.errors import BitwrightError, FileFormatError, reason, unknown_name
from bitwright.errors import shown as shown_value
from bitwright.files import write_json
from bitwright.kinds import ALLOCATION, read_own_json
from bitwright.overview import Overview, Overviewed
from bitwright.scheme import Budget, Precision, Scheme


@dataclass(frozen=True)
class BudgetUse:
    """How much of a budget a scheme uses, in whole units (bits, bit operations, femtoseconds).

    Attributes:
        budget: As it was asked for.
        used_whole: By the scheme.
        limit_whole: Allowed.
    """

    budget: Budget
    used_whole: int
    limit_whole: int

    @property
    def used(self) -> float:
        """In the unit of the budget: MB, G or ms."""
        return in_units(self.budget.kind, self.used_whole)

    @property
    def limit(self) -> float:
        return in_units(self.budget.kind, self.limit_whole)

    @property
    def slack(self) -> float:
        """What is left, in the unit of the budget."""
        return in_units(self.budget.kind, self.limit_whole - self.used_whole)

    def __str__(self) -> str:
        kind = self.budget.kind
        used, limit = show(kind, self.used_whole), show(kind, self.limit_whole)
        return f"{self.budget}: {used} of {limit}, {show(kind, self.limit_whole - self.used_whole)} left"


@dataclass(frozen=True)
class Change:
    """The best scheme if every budget were multiplied by `factor`.

    Attributes:
        factor: For instance 1.05.
        layers: The layers whose precision differs from the allocation's, with that precision; None if nothing fits.
    """

    factor: float
    layers: Mapping[str, Precision] | None


@dataclass(frozen=True, repr=False)
class Allocation(Overviewed):
    """The scheme of least expected loss within its budgets.

    Attributes:
        scheme: The precision of each layer.
        objective: Sum of the layers' losses.
        uses: Use of each budget, in the order asked for.
        second: The next best scheme within the budgets, or None if there is no other.
        second_objective: Its sum of losses.
        changes: What would change first with less and with more budget.
        pinned: Layers whose precision was given.
        unconverged: Layers whose sensitivity missed its target: their bits rest on uncertain figures.
        forced: What does not fit together, and was searched on all the same.
    """

    scheme: Scheme
    objective: float
    uses: tuple[BudgetUse, ...]
    second: Scheme | None = None
    second_objective: float | None = None
    changes: tuple[Change, ...] = ()
    pinned: tuple[str, ...] = ()
    unconverged: tuple[str, ...] = ()
    forced: tuple[str, ...] = ()

    @property
    def gap(self) -> float | None:
        """How much more the second-best scheme is expected to lose."""
        return None if self.second_objective is None else self.second_objective - self.objective

    def overview(self) -> Overview:
        """Its layers, with their bits and what is to be known of them."""
        facts = (f"expected loss {self.objective:.6g}", *map(str, self.uses))
        rows = [
            (layer, str(precision), ", ".join(self._notes(layer))) for layer, precision in self.scheme.layers.items()
        ]
        return Overview(self.scheme.name, facts, ("layer", "bits", ""), rows)

    def _notes(self, layer: str) -> list[str]:
        """What is to be known of a layer."""
        found = (("pinned", self.pinned), ("sensitivity not converged", self.unconverged))
        return [note for note, layers in found if layer in layers]

    def __str__(self) -> str:
        lines = [f"{self.scheme.name}: expected loss {self.objective:.6g}"]
        lines += [f"  {use}" for use in self.uses]
        if self.second is not None and self.gap is not None:
            lines.append(f"  second best: {self.gap:.3g} more, with {_shown(self._differing(self.second))}")
        for change in self.changes:
            percent = f"{(change.factor - 1) * 100:+.0f} % of every budget"
            text = "nothing fits" if change.layers is None else _shown(change.layers) if change.layers else "no change"
            lines.append(f"  {percent}: {text}")
        width = max(map(len, self.scheme.layers), default=0)
        for layer, precision in self.scheme.layers.items():
            notes = self._notes(layer)
            lines.append(f"  {layer:{width}} {precision}{'  (' + ', '.join(notes) + ')' if notes else ''}")
        if self.unconverged:
            lines.append(
                f"  warning: the sensitivity of {len(self.unconverged)} layers did not converge; measure with more probes."
            )
        lines += [f"  warning, forced: {mismatch}" for mismatch in self.forced]
        return "\n".join(lines)

    def _differing(self, other: Scheme) -> dict[str, Precision]:
        return {layer: own for layer, own in other.layers.items() if own != self.scheme.layers[layer]}

    def to_dict(self) -> dict[str, Any]:
        return {
            "scheme": self.scheme.to_dict(),
            "objective": self.objective,
            "budgets": [
                {
                    "budget": str(use.budget),
                    "used_whole": use.used_whole,
                    "limit_whole": use.limit_whole,
                    "used": use.used,
                    "limit": use.limit,
                    "slack": use.slack,
                    "unit": use.budget.unit,
                }
                for use in self.uses
            ],
            "second": None if self.second is None else self.second.to_dict(),
            "second_objective": self.second_objective,
            "gap": self.gap,
            "changes": [
                {
                    "factor": change.factor,
                    "layers": None
                    if change.layers is None
                    else {layer: str(precision) for layer, precision in change.layers.items()},
                }
                for change in self.changes
            ],
            "pinned": list(self.pinned),
            "unconverged": list(self.unconverged),
            "forced": list(self.forced),
        }

    @classmethod
    def from_dict(cls, fields: Any, where: str = "allocation") -> Allocation:
        """The inverse of `to_dict`; figures that follow from others are not read.

        Raises:
            FileFormatError: If keys are unknown or missing, or a value is malformed.
        """
        if not isinstance(fields, Mapping):
            raise FileFormatError(f"{where}: expected a mapping, got {type(fields).__name__}.")
        known = {
            "scheme",
            "objective",
            "budgets",
            "second",
            "second_objective",
            "gap",
            "changes",
            "pinned",
            "unconverged",
            "forced",
        }
        faults = [str(unknown_name("key", str(key), known)).removesuffix(".") for key in fields if key not in known]
        faults += [f"missing key '{key}'" for key in sorted(known - set(fields))]
        if faults:
            raise FileFormatError(f"{where}: " + "; ".join(faults))
        try:
            found = cls(
                Scheme.from_dict(fields["scheme"]),
                value_of(float, fields["objective"], "'objective'"),
                tuple(
                    BudgetUse(
                        Budget.parse(use["budget"]),
                        value_of(int, use["used_whole"], "'used_whole'"),
                        value_of(int, use["limit_whole"], "'limit_whole'"),
                    )
                    for use in fields["budgets"]
                ),
                None if fields["second"] is None else Scheme.from_dict(fields["second"]),
                value_of(float | None, fields["second_objective"], "'second_objective'"),
                tuple(_read_change(change) for change in fields["changes"]),
                value_of(tuple[str, ...], fields["pinned"], "'pinned'"),
                value_of(tuple[str, ...], fields["unconverged"], "'unconverged'"),
                value_of(tuple[str, ...], fields["forced"], "'forced'"),
            )
        except (BitwrightError, AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise FileFormatError(f"{where}: malformed: {reason(error)}") from error
        for scheme in (found.second, *(change.layers for change in found.changes)):
            layers = scheme.layers if isinstance(scheme, Scheme) else scheme
            if layers is not None and not set(layers) <= set(found.scheme.layers):
                odd = sorted(set(layers) - set(found.scheme.layers))[0]
                raise FileFormatError(f"{where}: the scheme has no layer {shown_value(odd)}, of which others tell.")
        return found

    def save(self, path: str | Path) -> None:
        """Write JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> Allocation:
        """Read JSON.

        Raises:
            FileFormatError: If the file is missing, is no JSON, or is no allocation.
        """
        return cls.from_dict(read_own_json(path, ALLOCATION), where=str(path))


def _read_change(fields: Any) -> Change:
    layers = fields["layers"]
    if layers is not None:
        layers = {str(layer): Precision.parse(text) for layer, text in layers.items()}
    return Change(value_of(float, fields["factor"], "'factor'"), layers)


def _shown(layers: Mapping[str, Precision]) -> str:
    texts = [f"{layer} at {precision}" for layer, precision in layers.items()]
    return ", ".join(texts[:4]) + (f" and {len(texts) - 4} more layers" if len(texts) > 4 else "")
