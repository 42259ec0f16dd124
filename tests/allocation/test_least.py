# SPDX-License-Identifier: MIT
"""The least of a usage under an expected loss, against every choice there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from allocation.strategies import brute_force, budgets, problems
from bitwright.allocation import Allocation, Problem, allocate_least, allocation_problem
from bitwright.allocation.activation import LiveTensor, PeakActivation
from bitwright.errors import BudgetError
from bitwright.graph import LayerCost
from bitwright.quantizer import Demand
from bitwright.scheme import Budget, Precision

APART = 1e-9
"""Losses that differ by less than this part of the largest may be rounded to either side of a limit."""


@settings(max_examples=60)
@given(problems(), budgets(), st.sampled_from(["size", "bops", "latency"]), st.integers(-1, 30))
def test_the_least_of_all_choices_is_found(problem: Problem, wanted: list[Budget], kind: str, place: int) -> None:
    """Whatever else is limited: none that is expected to lose so little takes less, or takes as little and loses less."""
    fitting = brute_force(problem, wanted)
    losses = [problem.loss(choice) for choice in fitting]
    scale = sum(max(map(abs, table.values())) for table in problem.losses.values()) or 1.0
    below = losses[place % len(losses)] if losses and place >= 0 else -2 * scale
    above = min((loss for loss in losses if loss > below + APART * scale), default=below + scale)
    max_loss = (below + above) / 2
    assume(not any(abs(loss - max_loss) < APART * scale for loss in losses))
    allowed = [choice for choice, loss in zip(fitting, losses, strict=True) if loss < max_loss]
    if not allowed:
        with pytest.raises(BudgetError, match="no allocation") as refused:
            allocate_least(problem, kind, max_loss, wanted)
        if fitting:  # what the message says is enough, and tells it from what was not
            advised = re.search(r"lose at most (\S+): .* loses (\S+)\. Allow more", str(refused.value))
            assert advised is not None
            assert float(advised[1]) == max_loss < float(advised[2])
            assert allocate_least(problem, kind, float(advised[2]), wanted).objective == pytest.approx(min(losses))
        return
    usage = problem.usages[kind].of
    least = min(map(usage, allowed))
    found = allocate_least(problem, kind, max_loss, wanted)
    assert usage(found.scheme.layers) == least == found.uses[-1].used_whole == found.uses[-1].limit_whole
    best = min(problem.loss(choice) for choice in allowed if usage(choice) == least)
    assert found.objective == pytest.approx(best, abs=1e-12 * scale)


def test_it_is_saved_and_read_back(tmp_path: Path) -> None:
    """As any allocation is, its least usage among its budgets."""
    found = allocate_least(_small(), "latency", 1.5, [Budget("size", 0.5, relative=True)])
    found.save(tmp_path / "found.json")
    assert Allocation.load(tmp_path / "found.json") == found
    assert found.scheme.name == "least-latency+size0.5"
    assert str(found.uses[-1]).startswith("latency=")


def test_what_is_refused() -> None:
    """What is no sum, and a loss that no choice is expected to keep: with the least there is."""
    with pytest.raises(BudgetError, match=r"lose at most 0\.5: the best within the budgets loses 1\. Allow more"):
        allocate_least(_small(), "latency", 0.5)
    with pytest.raises(BudgetError, match="expected size, bops or latency to be least, got 'activation'"):
        allocate_least(_small(peaks=True), "activation", 5.0)
    with pytest.raises(BudgetError, match="expected a finite loss that is allowed, got nan"):
        allocate_least(_small(), "size", float("nan"))


@pytest.mark.parametrize("loss", [0.012345649, 0.0123456789, 1 / 3, 2e-9 / 3, 123456.75, -1 / 3])
def test_the_loss_that_a_message_names_is_enough(loss: float) -> None:
    """It is rounded up: whoever allows it is not told the same again; and so it is for whoever allows almost enough."""
    for allowed in (loss - 0.5 * abs(loss), loss - 1e-8 * abs(loss)):
        with pytest.raises(BudgetError) as refused:
            allocate_least(_small(loss), "latency", allowed)
        advised = re.search(r"lose at most (\S+): .* loses (\S+)\. Allow more", str(refused.value))
        assert advised is not None
        assert float(advised[1]) == allowed
        assert len(advised[2]) < 12
        assert allocate_least(_small(loss), "latency", float(advised[2])).objective == loss


def _small(least: float = 1.0, *, peaks: bool = False) -> Problem:
    """One layer, of which fewer bits lose more and take less time."""
    low, high = Precision(4, 4), Precision(8, 8)
    peak = PeakActivation((("step", (LiveTensor("", 1, Demand(0, ("layer",))),)),))
    return allocation_problem(
        {"layer": {low: least + 0.25 * abs(least), high: least}},
        {"layer": LayerCost("layer", 10, 10)},
        choices=(low, high),
        latency_ms={"layer": {low: 0.5, high: 1.0}},
        usages=[peak] if peaks else [],
    )
