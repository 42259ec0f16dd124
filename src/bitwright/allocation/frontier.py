# SPDX-License-Identifier: MIT
"""The Pareto frontier: the least expected loss at every value of one budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from pathlib import Path
from typing import Any

from bitwright.allocation.problem import Problem
from bitwright.allocation.search import infeasible, resolve, solve
from bitwright.allocation.usage import in_units
from bitwright.decode import value_of
from bitwright.errors import BitwrightError, BudgetError, FileFormatError, reason, shown
from bitwright.files import write_json
from bitwright.kinds import FRONTIER, read_own_json
from bitwright.overview import Overview, Overviewed, counted
from bitwright.progress import Progress, silent
from bitwright.scheme import BUDGET_UNITS, Budget, Scheme


@dataclass(frozen=True)
class FrontierPoint:
    """One scheme that no other beats in both loss and usage.

    Attributes:
        scheme: The precision of each layer.
        objective: Sum of the layers' losses.
        used_whole: What it uses, in whole units (bits, bit operations, femtoseconds).
    """

    scheme: Scheme
    objective: float
    used_whole: int


@dataclass(frozen=True, repr=False)
class ParetoFrontier(Overviewed):
    """The best schemes over one budget, from the smallest to the largest.

    Attributes:
        kind: The kind of the budget.
        points: In order of usage; the objective falls strictly.
        budgets: That held for all points, besides.
        network: SHA-256 of the network; None where it is not known.
        images: SHA-256 of the images that the losses were measured on; None where they are not known.
        output: Of a network with several outputs, the one whose loss was measured; None for that of all.
        forced: What does not fit together, and was searched on all the same.
    """

    kind: str
    points: tuple[FrontierPoint, ...]
    budgets: tuple[Budget, ...] = ()
    network: str | None = None
    images: str | None = None
    output: str | None = None
    forced: tuple[str, ...] = ()

    def overview(self) -> Overview:
        """Its schemes, with what each uses and is expected to lose."""
        used = self.used()
        facts = [counted(len(self.points), "scheme")]
        if used:
            facts.append(f"{used[0]:.4g} to {used[-1]:.4g} {self.unit}")
        rows = [
            (point.scheme.name, f"{usage:.4g}", f"{point.objective:.3g}")
            for point, usage in zip(self.points, used, strict=True)
        ]
        return Overview(f"over {self.kind}", facts, ("scheme", f"{self.kind} ({self.unit})", "expected loss"), rows)

    @property
    def unit(self) -> str:
        return BUDGET_UNITS[self.kind]

    def used(self) -> list[float]:
        """What each point uses, in MB, G or ms."""
        return [in_units(self.kind, point.used_whole) for point in self.points]

    def objectives(self) -> list[float]:
        return [point.objective for point in self.points]

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "unit": self.unit,
            "budgets": [str(budget) for budget in self.budgets],
            "network": self.network,
            "images": self.images,
            "output": self.output,
            "forced": list(self.forced),
            "points": [
                {
                    "used": in_units(self.kind, point.used_whole),
                    "used_whole": point.used_whole,
                    "objective": point.objective,
                    "scheme": point.scheme.to_dict(),
                }
                for point in self.points
            ],
        }

    @classmethod
    def from_dict(cls, fields: Any, where: str = "frontier") -> ParetoFrontier:
        """The inverse of `to_dict`.

        Raises:
            FileFormatError: If a value is missing or malformed.
        """
        try:
            if fields["kind"] not in BUDGET_UNITS:
                raise FileFormatError(f"unknown kind of budget {shown(fields['kind'])}")
            points = tuple(
                FrontierPoint(
                    Scheme.from_dict(point["scheme"]),
                    value_of(float, point["objective"], "'objective'"),
                    value_of(int, point["used_whole"], "'used_whole'"),
                )
                for point in fields["points"]
            )
            budgets = tuple(Budget.parse(text) for text in fields["budgets"])
            network, images = (value_of(str | None, fields[name], f"'{name}'") for name in ("network", "images"))
            output = value_of(str | None, fields.get("output"), "'output'")
            forced = value_of(tuple[str, ...], fields["forced"], "'forced'")
            return cls(fields["kind"], points, budgets, network, images, output, forced)
        except (BitwrightError, AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise FileFormatError(f"{where}: malformed frontier: {reason(error)}") from error

    def save(self, path: str | Path) -> None:
        """Write JSON, atomically."""
        write_json(path, self.to_dict())

    @classmethod
    def load(cls, path: str | Path) -> ParetoFrontier:
        """Read JSON.

        Raises:
            FileFormatError: If the file is missing, is no JSON, or is no frontier.
        """
        return cls.from_dict(read_own_json(path, FRONTIER), where=str(path))


def pareto_frontier(
    problem: Problem,
    kind: str,
    points: int = 49,
    budgets: Iterable[Budget] = (),
    progress: Progress = silent,
) -> ParetoFrontier:
    """The least expected loss at evenly spaced limits from the smallest to the largest reachable usage.

    Each point is exact: its scheme is the best within its limit. Limits that give one scheme give one point, so there may be
    fewer points than limits.

    Args:
        problem: See `graph_problem`.
        kind: The kind of the budget that varies: `size`, `bops`, `latency` or `activation`.
        points: Number of limits, at least 2.
        budgets: That hold for all points.
        progress: Called after each point.

    Raises:
        BudgetError: If the other budgets cannot be met, or fewer than 2 points are asked for.
    """
    if points < 2:
        raise BudgetError(f"a frontier has at least 2 points, got {points}.")
    fixed = tuple(budgets)
    others = resolve(problem, fixed)
    usage = problem.usage(kind)
    low, high = (usage.of(problem.extreme(kind, largest)) for largest in (False, True))
    found: dict[int, FrontierPoint] = {}
    for step in range(points):
        most = floor(low + Fraction(step, points - 1) * (high - low))
        choices = solve(problem, [(kind, most), *others])
        if choices:
            used = usage.of(choices[0])
            point = FrontierPoint(
                problem.scheme(f"{kind}{step / (points - 1):.3g}", choices[0]), problem.loss(choices[0]), used
            )
            best = min((other.objective for other in found.values()), default=float("inf"))
            if point.objective < best:
                found[used] = point
        progress(step + 1, points)
    if not found:
        raise infeasible(problem, others)
    schemes = tuple(found.values())
    return ParetoFrontier(kind, schemes, fixed, problem.network, problem.images, problem.output, problem.forced)
