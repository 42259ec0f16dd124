# SPDX-License-Identifier: MIT
"""The search: the choice of least loss within all budgets."""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from itertools import combinations
from math import floor

from bitwright.allocation.options import Options
from bitwright.allocation.problem import Problem
from bitwright.allocation.result import Allocation, BudgetUse, Change
from bitwright.allocation.solve import Limit, best
from bitwright.allocation.usage import Additive, Row, show, whole_units
from bitwright.errors import BudgetError
from bitwright.scheme import Budget, Precision

Choice = dict[str, Precision]
NEAR = 0.05
"""How much more or less of a budget is looked at for what would change first."""


def allocate(
    problem: Problem, budgets: Iterable[Budget], name: str | None = None, *, explain: bool = False
) -> Allocation:
    """The scheme of least expected loss within all budgets.

    Args:
        problem: See `graph_problem` and `allocation_problem`.
        budgets: All must hold; several of one kind are allowed.
        name: The name of the scheme; by default the budgets' own, for instance `size0.5`.
        explain: Also find what would change first with 5 % less and more of every budget, which takes two more searches.

    Raises:
        BudgetError: If no scheme fits; names the budgets that bind and the smallest reachable value.

    Source:
        Yao et al. 2020, HAWQ-V3, arXiv:2011.10680, section 3.4.
    """
    wanted = tuple(budgets)
    limits = resolve(problem, wanted)
    found = solve(problem, limits, keep=2)
    if not found:
        raise infeasible(problem, limits)
    chosen, second = found[0], found[1] if len(found) > 1 else None
    uses = tuple(
        BudgetUse(budget, problem.usages[budget.kind].of(chosen), most)
        for budget, (_, most) in zip(wanted, limits, strict=True)
    )
    scheme = problem.scheme(name or "+".join(map(str, wanted)) or "unlimited", chosen)
    return Allocation(
        scheme=scheme,
        objective=problem.loss(chosen),
        uses=uses,
        second=None if second is None else problem.scheme(f"second to {scheme.name}", second),
        second_objective=None if second is None else problem.loss(second),
        unconverged=tuple(layer for layer in problem.choices if layer in problem.unconverged),
        pinned=tuple(layer for layer in problem.choices if layer in problem.pinned),
        changes=tuple(_change(problem, limits, chosen, factor) for factor in (1 - NEAR, 1 + NEAR)) if explain else (),
        forced=problem.forced,
    )


def resolve(problem: Problem, budgets: Iterable[Budget]) -> list[tuple[str, int]]:
    """The kind of each budget, and the most whole units that it allows."""
    return [(budget.kind, whole_units(budget, *problem.reach(budget.kind))) for budget in budgets]


def solve(
    problem: Problem,
    limits: Iterable[tuple[str, int]],
    keep: int = 1,
    options: Options | None = None,
    further: Iterable[Limit] = (),
) -> list[Choice]:
    """The `keep` best choices within limits in whole units, and `further` ones of no usage; none if nothing fits.

    A usage that is the largest of several sums is limited by those that were exceeded so far, until none is exceeded any
    more: leaving out the others can only make more choices possible, so the best of these is the best of all.
    """
    wanted = list(limits)
    options = options or problem.options
    rows = list(further)
    for kind, most in wanted:
        amounts, constant = problem.first_amounts(kind)
        rows.append(Limit(amounts, most - constant))
    while True:
        choices = [options.choice(picked) for picked in best(options, rows, keep)]
        exceeded = [
            _limit(problem, problem.usages[kind].row(choice), most)
            for choice in choices
            for kind, most in wanted
            if problem.usages[kind].of(choice) > most
        ]
        if not exceeded:
            return [problem.ordered(choice) for choice in choices]
        rows += exceeded


def _limit(problem: Problem, row: Row, most: int) -> Limit:
    return Limit(problem.options.amounts(row), most - row.constant)


def _change(problem: Problem, limits: list[tuple[str, int]], chosen: Choice, factor: float) -> Change:
    """The best choice if all budgets were multiplied by `factor`."""
    scaled = Fraction(repr(factor))
    found = solve(problem, [(kind, floor(most * scaled)) for kind, most in limits])
    if not found:
        return Change(factor, None)
    return Change(factor, {layer: own for layer, own in found[0].items() if own != chosen[layer]})


def infeasible(problem: Problem, limits: list[tuple[str, int]]) -> BudgetError:
    """The error for budgets that cannot be met, which names those that bind."""
    for kind, most in limits:
        choice = problem.extreme(kind)
        least = problem.usages[kind].of(choice)
        if least > most:
            free = {precision for layer, precision in choice.items() if layer not in problem.pinned}
            how = f"all {_word(free.pop())}" if len(free) == 1 else "every layer at its cheapest"
            return BudgetError(
                f"no allocation fits {show(kind, most, least)}: the smallest ({how}) needs {show(kind, least, most)}. "
                "Raise the budget, or add a lower bit width."
            )
    # What cannot be met together involves a sum over layers: peaks alone are all least where activations have fewest bits.
    ordered = sorted(limits, key=lambda limit: isinstance(problem.usages[limit[0]], Additive))
    for count in range(2, len(ordered) + 1):
        for *others, (kind, most) in map(list, combinations(ordered, count)):
            if solve(problem, [*others, (kind, most)]):
                continue
            smallest = least_usage(problem, kind, others)
            assert smallest is not None, "fewer limits are met, as was seen before"
            within = " and ".join(f"{other} of {show(other, allowed)}" for other, allowed in others)
            return BudgetError(
                f"no allocation fits {within} and {kind} of {show(kind, most, smallest)} together: within the former, the "
                f"smallest {kind} is {show(kind, smallest, most)}. Raise one of these budgets, or add a lower bit width."
            )
    raise AssertionError("called for budgets that can be met")


def least_usage(
    problem: Problem, kind: str, limits: Iterable[tuple[str, int]], further: Iterable[Limit] = ()
) -> int | None:
    """The smallest sum of a kind, in whole units, that other limits leave possible; None if they leave nothing. See `solve`."""
    usage = problem.usages[kind]
    amounts = problem.options.amounts(usage.row(problem.extreme(kind)))
    found = solve(problem, limits, options=problem.options.with_losses(amounts), further=further)
    return usage.of(found[0]) if found else None


def _word(precision: Precision) -> str:
    same = precision.weight_bits == precision.act_bits
    return f"{precision.weight_bits}-bit" if same else str(precision)
