# SPDX-License-Identifier: MIT
"""The search the other way round: the scheme that takes least, of time for instance, while it is expected to lose little."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fractions import Fraction

from bitwright.allocation.options import LOSS_BITS, loss_exponent
from bitwright.allocation.problem import Problem
from bitwright.allocation.result import Allocation, BudgetUse
from bitwright.allocation.search import infeasible, resolve, solve
from bitwright.allocation.solve import Limit, best
from bitwright.allocation.usage import Additive, in_units
from bitwright.errors import BudgetError
from bitwright.scheme import Budget

LIMIT_BITS = 40
"""Losses are rounded up to so many bits of the worst choice's: then they are no larger than femtoseconds, which HiGHS holds."""


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
    usage = problem.usage(kind)
    if not isinstance(usage, Additive):
        raise BudgetError(f"expected size, bops or latency to be least, got '{kind}', which is no sum over layers.")
    if not math.isfinite(max_loss):
        raise BudgetError(f"expected a finite loss that is allowed, got {max_loss}.")
    wanted = tuple(budgets)
    limits = resolve(problem, wanted)
    amount = _least(problem, usage, max_loss, limits)
    if amount is None:
        found = solve(problem, limits)
        if not found:
            raise infeasible(problem, limits)
        raise BudgetError(
            f"no allocation is expected to lose at most {max_loss:g}: the best within the budgets loses "
            f"{problem.loss(found[0]):.6g}. Allow more, or add a higher bit width."
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


def _least(problem: Problem, usage: Additive, max_loss: float, limits: list[tuple[str, int]]) -> int | None:
    """The least usage within the limits, in whole units; None where none loses so little."""
    options, drop = problem.options, LOSS_BITS - LIMIT_BITS
    allowed = math.floor(Fraction(max_loss) * Fraction(2) ** (loss_exponent(problem.losses) - drop))
    rows = [Limit(-(-options.losses >> drop), allowed)]
    for kind, most in limits:
        amounts, constant = problem.first_amounts(kind)
        rows.append(Limit(amounts, most - constant))
    cheapest = options.with_losses(options.amounts(usage.row({})))
    while True:
        found = best(cheapest, rows)
        if not found:
            return None
        choice = options.choice(found[0])
        # A peak is the largest of several sums, of which those that were exceeded are added, as `solve` does.
        exceeded = [(kind, most) for kind, most in limits if problem.usages[kind].of(choice) > most]
        if not exceeded:
            return usage.of(choice)
        for kind, most in exceeded:
            row = problem.usages[kind].row(choice)
            rows.append(Limit(options.amounts(row), most - row.constant))
