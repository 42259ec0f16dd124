# SPDX-License-Identifier: MIT
"""The search the other way round: the scheme that takes least, of time for instance, while it is expected to lose little."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import ROUND_CEILING, Context, Decimal
from fractions import Fraction

from bitwright.allocation.options import LOSS_BITS, Int64, loss_exponent
from bitwright.allocation.problem import Problem
from bitwright.allocation.result import Allocation, BudgetUse
from bitwright.allocation.search import infeasible, least_usage, resolve, solve
from bitwright.allocation.solve import Limit
from bitwright.allocation.usage import Additive, Choice, in_units
from bitwright.errors import BudgetError
from bitwright.scheme import Budget

LIMIT_BITS = 40
"""Losses are rounded up to so many bits of the worst choice's: then they are no larger than femtoseconds, which HiGHS holds."""
_DROPPED = LOSS_BITS - LIMIT_BITS


def allocate_least(
    problem: Problem, kind: str, max_loss: float, budgets: Iterable[Budget] = (), name: str | None = None
) -> Allocation:
    """The scheme of least size, bit operations or latency among those whose expected loss is at most `max_loss`.

    Of several that use as little, it is the one of least expected loss.

    Args:
        problem: See `graph_problem`.
        kind: `size`, `bops` or `latency`.
        max_loss: The most expected loss, in the unit of `Allocation.objective`.
        budgets: That hold besides.
        name: The name of the scheme; by default it says what is least.

    Raises:
        BudgetError: If no scheme within the budgets is expected to lose so little: says what the best is expected to lose.
    """
    if not isinstance(problem.usage(kind), Additive):
        raise BudgetError(f"expected size, bops or latency to be least, got '{kind}', which is no sum over layers.")
    if not math.isfinite(max_loss):
        raise BudgetError(f"expected a finite loss that is allowed, got {max_loss}.")
    wanted = tuple(budgets)
    limits = resolve(problem, wanted)
    lossy = Limit(_rounded_up(problem.options.losses), math.floor(Fraction(max_loss) * _units(problem)))
    amount = least_usage(problem, kind, limits, [lossy])
    if amount is None:
        found = solve(problem, limits)
        if not found:
            raise infeasible(problem, limits)
        raise BudgetError(
            f"no allocation is expected to lose at most {max_loss}: the best within the budgets loses "
            f"{_needed(problem, found[0])}. Allow more, or add a higher bit width."
        )
    chosen = solve(problem, [*limits, (kind, amount)])[0]
    asked = (*wanted, Budget(kind, in_units(kind, amount)))
    uses = tuple(
        BudgetUse(budget, problem.usages[budget.kind].of(chosen), most)
        for budget, (_, most) in zip(asked, (*limits, (kind, amount)), strict=True)
    )
    return Allocation(
        scheme=problem.scheme(name or "+".join([f"least-{kind}", *map(str, wanted)]), chosen),
        objective=problem.loss(chosen),
        uses=uses,
        unconverged=tuple(layer for layer in problem.choices if layer in problem.unconverged),
        pinned=tuple(layer for layer in problem.choices if layer in problem.pinned),
        forced=problem.forced,
    )


def _rounded_up(losses: Int64) -> Int64:
    """Whole losses of options, in coarser units: see `LIMIT_BITS`."""
    return -(-losses >> _DROPPED)


def _needed(problem: Problem, choice: Choice) -> str:
    """The least loss that has to be allowed for a choice, in six digits rounded up, so that to give it back is enough."""
    options = problem.options
    whole = int(_rounded_up(options.losses)[options.picked(choice)].sum())
    exact = Fraction(whole) / _units(problem)
    upwards = Context(prec=6, rounding=ROUND_CEILING)
    return f"{float(upwards.divide(Decimal(exact.numerator), Decimal(exact.denominator))):g}"


def _units(problem: Problem) -> Fraction:
    """Coarser units in a loss of one."""
    return Fraction(2) ** (loss_exponent(problem.losses) - _DROPPED)
