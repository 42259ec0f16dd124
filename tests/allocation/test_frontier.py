# SPDX-License-Identifier: MIT
"""Each point of the frontier is the best of its budget, and the file holds all of it."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from allocation.strategies import brute_force, budgets, every_choice, problems
from bitwright.allocation import Allocation, ParetoFrontier, Problem, allocate, pareto_frontier
from bitwright.errors import BudgetError, FileFormatError
from bitwright.scheme import Budget


@settings(max_examples=60)
@given(problems(), st.sampled_from(["size", "bops", "latency", "activation"]), budgets(), st.integers(2, 9))
def test_no_choice_beats_a_point(problem: Problem, kind: str, others: list[Budget], limits: int) -> None:
    """Among all choices within the other budgets, none uses no more and loses less; usage rises and loss falls strictly."""
    fitting = brute_force(problem, others)
    if not fitting:
        with pytest.raises(BudgetError):
            pareto_frontier(problem, kind, limits, others)
        return
    found = pareto_frontier(problem, kind, limits, others)
    usage, scale = problem.usages[kind], sum(max(map(abs, table.values())) for table in problem.losses.values()) or 1.0
    for point in found.points:
        assert point.scheme.layers in list(every_choice(problem))
        assert point.used_whole == usage.of(point.scheme.layers)
        assert point.objective == problem.loss(point.scheme.layers)
        within = min(problem.loss(choice) for choice in fitting if usage.of(choice) <= point.used_whole)
        assert point.objective == pytest.approx(within, abs=1e-12 * scale)
    used, objectives = [point.used_whole for point in found.points], found.objectives()
    assert used == sorted(set(used))
    assert all(later < earlier for earlier, later in pairwise(objectives))
    assert ParetoFrontier.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@settings(max_examples=40)
@given(problems(), budgets(), st.booleans())
def test_an_allocation_is_read_back_from_its_file(problem: Problem, wanted: list[Budget], explain: bool) -> None:
    """All that was found, to the last bit."""
    if not brute_force(problem, wanted):
        return
    found = allocate(problem, wanted, explain=explain)
    assert Allocation.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_files_that_are_no_frontiers(tmp_path: Path) -> None:
    """One line with the path."""
    with pytest.raises(FileFormatError, match=r"cannot read a frontier from '.*missing'"):
        ParetoFrontier.load(tmp_path / "missing")
    for text in (
        "[]",
        "{}",
        '{"kind": "speed", "points": [], "budgets": []}',
        '{"kind": "size", "points": [1], "budgets": []}',
    ):
        (tmp_path / "frontier.json").write_text(text)
        with pytest.raises(FileFormatError, match=r"frontier.json: malformed frontier"):
            ParetoFrontier.load(tmp_path / "frontier.json")
