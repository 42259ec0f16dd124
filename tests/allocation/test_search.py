# SPDX-License-Identifier: MIT
"""The search against every choice there is, and against HiGHS; its refusals; what it says about its neighbourhood."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocation.strategies import brute_force, budgets, every_choice, fits, problems
from bitwright.allocation import Problem, allocate, allocation_problem
from bitwright.allocation import solve as solve_module
from bitwright.allocation.enumerate import _distinct as distinct
from bitwright.allocation.highs import best_by_highs
from bitwright.allocation.multipliers import multipliers
from bitwright.allocation.search import resolve, solve
from bitwright.allocation.solve import Limit, best
from bitwright.errors import BudgetError, SchemeError, UnknownNameError
from bitwright.graph import LayerCost
from bitwright.scheme import Budget, Precision

W2, W4, W8 = Precision(2, 2), Precision(4, 4), Precision(8, 8)
ROUNDING = 1e-12
"""Losses of one sum, rounded once to whole units, differ from float64's own by less than this part of the largest."""


def scale(problem: Problem) -> float:
    """The sum of the largest losses: what rounding is relative to."""
    return sum(max(map(abs, table.values())) for table in problem.losses.values()) or 1.0


@given(problems(), budgets())
def test_the_best_and_the_second_best_of_all_choices_are_found(problem: Problem, wanted: list[Budget]) -> None:
    """Any mix of budgets, ties and pins: the two least losses of all choices that fit, or a refusal where none fits."""
    expected = brute_force(problem, wanted)
    if not expected:
        with pytest.raises(BudgetError, match="no allocation fits"):
            allocate(problem, wanted)
        return
    allocation = allocate(problem, wanted)
    found = [allocation.scheme, allocation.second]
    assert (allocation.second is None) == (len(expected) == 1)
    limits = resolve(problem, wanted)
    for scheme, choice in zip(found, expected[:2], strict=False):
        assert scheme is not None
        assert list(scheme.layers) == list(problem.choices)
        assert scheme.layers in list(every_choice(problem))
        assert fits(problem, scheme.layers, limits)
        assert problem.loss(scheme.layers) == pytest.approx(problem.loss(choice), abs=ROUNDING * scale(problem))
    assert allocation.second is None or allocation.second.layers != allocation.scheme.layers


@settings(max_examples=60)
@given(problems(), budgets(), st.integers(1, 4), st.sampled_from([1, 2, 10_000]))
def test_any_width_gives_the_same(problem: Problem, wanted: list[Budget], keep: int, width: int) -> None:
    """However few partial choices are kept, and when HiGHS takes over, the losses found are those of all choices."""
    expected = [problem.loss(choice) for choice in brute_force(problem, wanted)[:keep]]
    limits = resolve(problem, wanted)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(solve_module, "FEW_STATES", width)
        patch.setattr(solve_module, "MANY_STATES", width)
        found = [problem.loss(choice) for choice in solve(problem, limits, keep)]
    assert found == pytest.approx(expected, abs=1e-9 * scale(problem))


@pytest.mark.parametrize("limits", [0, 1, 2])
@pytest.mark.parametrize("keep", range(1, 5))
def test_partial_choices_of_one_usage(limits: int, keep: int) -> None:
    """However many there are, those of least loss are kept, and fewer where there are fewer."""
    for count in range(7):
        losses = np.random.default_rng(count).permutation(count).astype(np.int64)
        kept = distinct(np.zeros((limits, count), np.int64), losses, keep)
        assert sorted(losses[kept]) == list(range(min(count, keep)))


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("limits", [1, 2, 3])
def test_enumeration_and_highs_agree(seed: int, limits: int) -> None:
    """Forty groups of seven options: the same two least losses from two unrelated methods, to the last whole unit."""
    generator = np.random.default_rng(seed)
    starts = np.arange(0, 41 * 7, 7)
    bits = np.tile(np.arange(2, 9), 40)
    size = np.repeat(generator.integers(1, 2000, 40), 7)
    amounts = np.array([size * bits, size * bits**2, size * bits + generator.integers(0, 300, 280)])[:limits]
    losses = (np.repeat(generator.lognormal(0, 1.5, 40), 7) * 4.0**-bits * 2**40).astype(np.int64)
    room = [int(0.4 * row.reshape(40, 7).max(axis=1).sum()) for row in amounts]

    class Given:
        pass

    given_options = Given()
    given_options.starts, given_options.losses = starts, losses
    ours = best(given_options, [Limit(row, most) for row, most in zip(amounts, room, strict=True)], 2)
    theirs = best_by_highs(losses, amounts, room, starts, 2)
    assert [int(losses[list(picked)].sum()) for picked in ours] == [
        int(losses[list(picked)].sum()) for picked in theirs
    ]
    for picked in ours:
        assert (amounts[:, picked].sum(axis=1) <= room).all()


def test_a_millionth_over_the_limit_does_not_fit() -> None:
    """A usage that exceeds its limit by one unit in 10**9, within every tolerance of a float solver, is refused."""
    costs = {"a": LayerCost("a", 10**9 + 1, 0), "b": LayerCost("b", 1, 0)}
    losses = {"a": {W4: 1.0, W8: 0.0}, "b": {W4: 1e-9, W8: 0.0}}
    problem = allocation_problem(losses, costs, choices=(W4, W8))
    most = 8 * 10**9 + 4 + 4  # four bits too few for 8 bits in `a`
    (choice,) = solve(problem, [("size", most)])
    assert choice == {"a": W4, "b": W8}
    (choice,) = solve(problem, [("size", most + 4)])
    assert choice == {"a": W8, "b": W4}
    (choice,) = solve(problem, [("size", most + 8)])
    assert choice == {"a": W8, "b": W8}


def test_a_loss_that_differs_in_the_last_digit_decides() -> None:
    """Of two layers of equal cost, the one whose loss is greater by 2**-52 of it keeps its bits."""
    costs = {layer: LayerCost(layer, 100, 100) for layer in "ab"}
    losses = {"a": {W4: 1.0, W8: 0.0}, "b": {W4: 1.0 + 2**-52, W8: 0.0}}
    problem = allocation_problem(losses, costs, choices=(W4, W8))
    (choice,) = solve(problem, [("size", 1200)])
    assert choice == {"a": W4, "b": W8}


@settings(max_examples=60)
@given(problems(), st.sampled_from(["size", "bops", "latency", "activation"]), st.floats(0, 1), st.floats(0, 1))
def test_more_budget_never_hurts(problem: Problem, kind: str, one: float, other: float) -> None:
    """The expected loss does not rise with the budget."""
    losses = [allocate(problem, [Budget(kind, part, relative=True)]).objective for part in sorted((one, other))]
    assert losses[0] >= losses[1] - ROUNDING * scale(problem)


def small(**options: object) -> Problem:
    """Three layers, two of them tied."""
    costs = {layer: LayerCost(layer, 2**20, 10**9) for layer in ("stem", "left", "right", "fc")}
    losses = {layer: {W2: 4.0, W4: 2.0, W8: 1.0} for layer in ("left", "right")}
    given_options = {
        "choices": (W2, W4, W8),
        "ties": [("left", "right")],
        "pinned": {"stem": W8, "fc": W8},
        **options,
    }
    return allocation_problem(losses, costs, **given_options)


def test_an_impossible_budget_says_the_smallest_reachable() -> None:
    """The message names what was asked for, what would be least, and what to do."""
    with pytest.raises(
        BudgetError,
        match=r"no allocation fits 100 GBOPs: the smallest \(all 2-bit\) needs 136 GBOPs\. "
        r"Raise the budget, or add a lower bit width\.",
    ):
        allocate(small(), [Budget("bops", 100)])


def test_a_missed_budget_is_told_with_enough_digits() -> None:
    """The two figures of the message differ, however near they are."""
    problem = small()
    least = problem.usage("size").of(problem.extreme("size")) / 2**23
    with pytest.raises(BudgetError) as caught:
        allocate(problem, [Budget("size", least - 1e-7)])
    asked, needed = (
        str(caught.value).split("fits ")[1].split(" MB")[0],
        str(caught.value).split("needs ")[1].split(" MB")[0],
    )
    assert asked != needed
    assert float(asked) < float(needed)


def test_budgets_that_exclude_each_other_are_named() -> None:
    """Each can be met alone; the message says which together cannot, and what the one leaves possible of the other."""
    latency = {layer: {W2: 9.0, W4: 5.0, W8: 1.0} for layer in ("stem", "left", "right", "fc")}
    problem = small(latency_ms=latency)
    with pytest.raises(
        BudgetError,
        match=r"no allocation fits size of 3 MB and latency of 4 ms together: "
        r"within the former, the smallest latency is 12 ms\.",
    ):
        allocate(problem, [Budget("bops", 1, relative=True), Budget("size", 3), Budget("latency", 4)])


def test_tied_layers_share_activation_bits_only() -> None:
    """Weights of tied layers may differ; their activations may not."""
    pairs = [Precision(weight, act) for weight in (2, 8) for act in (2, 8)]
    costs = {layer: LayerCost(layer, weights, 1) for layer, weights in (("left", 100), ("right", 1000))}
    losses = {
        "left": {precision: 8.0 - precision.weight_bits + 8 - precision.act_bits for precision in pairs},
        "right": {precision: 8.0 - precision.weight_bits + precision.act_bits / 10 for precision in pairs},
    }
    problem = allocation_problem(losses, costs, choices=pairs, ties=[("left", "right")])
    allocation = allocate(problem, [Budget("size", 2800 / 2**23)])
    assert allocation.scheme.layers == {"left": Precision(8, 8), "right": Precision(2, 8)}


def test_a_tie_with_a_pinned_layer_follows_it() -> None:
    """A layer tied to one that is pinned at 8 bits reads 8 bits."""
    problem = small(pinned={"stem": W8, "fc": W8, "left": W8})
    assert problem.choices["right"] == (W8,)
    with pytest.raises(SchemeError, match=r"tied layers .* equal activation bits, but 'left' may have W2A3; 'right'"):
        small(pinned={"stem": W8, "fc": W8, "left": Precision(2, 3)})


def test_no_budget_means_no_limit() -> None:
    """Without a budget every layer gets what loses least."""
    allocation = allocate(small(), [])
    assert set(allocation.scheme.layers.values()) == {W8}
    assert allocation.scheme.name == "unlimited"
    assert allocation.uses == ()


def test_what_is_missing_is_named() -> None:
    """Unknown layers, precisions without a loss, and budgets without figures."""
    costs = {"conv": LayerCost("conv", 1, 1)}
    with pytest.raises(UnknownNameError, match=r"unknown layer 'cnov': did you mean 'conv'\?"):
        allocation_problem({"cnov": {W4: 1.0}}, costs, choices=(W4,))
    with pytest.raises(UnknownNameError, match="unknown layer 'fc'"):
        allocation_problem({"conv": {W4: 1.0}}, costs, choices=(W4,), pinned={"fc": W8})
    with pytest.raises(UnknownNameError, match=r"loss of layer 'conv' at precision 'W8A8'.*Known: W4A4"):
        allocation_problem({"conv": {W4: 1.0}}, costs, choices=(W4, W8))
    with pytest.raises(SchemeError, match=r"loss of layer 'conv' at W4A4 must be finite, got nan"):
        allocation_problem({"conv": {W4: float("nan")}}, costs, choices=(W4,))
    with pytest.raises(BudgetError, match="at least one precision"):
        allocation_problem({}, costs, choices=())
    problem = allocation_problem({"conv": {W4: 1.0}}, costs, choices=(W4,))
    with pytest.raises(
        BudgetError,
        match=r"a budget of latency needs a latency table, which `bitwright bench layers` measures .* size, bops",
    ):
        allocate(problem, [Budget("latency", 1)])


def test_five_percent_either_way() -> None:
    """What changes first is the difference to the optimum of the scaled budgets."""
    names = [f"conv{number}" for number in range(10)]
    costs = {layer: LayerCost(layer, 1000, 1000) for layer in names}
    losses = {layer: {W4: 1.0 + number / 10, W8: 0.0} for number, layer in enumerate(names)}
    problem = allocation_problem(losses, costs, choices=(W4, W8))
    allocation = allocate(problem, [Budget("size", 0.5, relative=True)], explain=True)
    assert [layer for layer, precision in allocation.scheme.layers.items() if precision == W8] == names[5:]
    less, more = allocation.changes
    assert (less.factor, less.layers) == (0.95, {"conv5": W4})
    assert (more.factor, more.layers) == (1.05, {})
    assert allocation.gap == pytest.approx(0.1)
    tight = allocate(problem, [Budget("size", 0, relative=True)], explain=True)
    assert tight.changes[0].layers is None
    assert allocate(problem, [Budget("size", 0.5, relative=True)]).changes == ()


def test_multipliers_that_grow_without_bound_prove_that_nothing_fits() -> None:
    """Two limits that no option meets: the dual rises for ever, and is left as soon as it exceeds every loss."""
    losses = np.array([0.0, 0.0, 1.0, 0.0])
    amounts = np.array([[0.0, 2.0, 4.0, 6.0], [1.0, 0.0, 1.0, 0.0]])
    assert multipliers(losses, amounts, np.zeros(2), np.array([0, 4])) is None
