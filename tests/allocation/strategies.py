# SPDX-License-Identifier: MIT
"""Small random searches, and the slow, literal twin of the solver: every choice there is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product

from hypothesis import strategies as st

from bitwright.allocation import Problem, allocation_problem
from bitwright.allocation.activation import LiveTensor, PeakActivation
from bitwright.allocation.search import resolve
from bitwright.graph import LayerCost
from bitwright.quantizer import Demand
from bitwright.scheme import Budget, Precision

Choice = Mapping[str, Precision]
WIDTHS = st.integers(2, 8)
PRECISIONS = st.builds(Precision, WIDTHS, WIDTHS)


@st.composite
def problems(draw: st.DrawFn, most_layers: int = 5, most_choices: int = 4) -> Problem:
    """A search small enough to look at every choice: ties, pins, peaks and losses that are equal now and then."""
    count = draw(st.integers(1, most_layers))
    layers = [f"layer{number}" for number in range(count)]
    choices = draw(st.lists(PRECISIONS, min_size=1, max_size=most_choices, unique=True))
    figures = st.one_of(st.integers(0, 6).map(float), st.floats(-1e3, 1e3, allow_subnormal=False))
    losses = {layer: {precision: draw(figures) for precision in choices} for layer in layers}
    latency = {layer: {precision: draw(st.integers(0, 9)) / 7 for precision in choices} for layer in layers}
    costs = {layer: LayerCost(layer, draw(st.integers(0, 9)), draw(st.integers(0, 9))) for layer in layers}
    first_tied = draw(st.integers(0, count))
    ties = [layers[first_tied : first_tied + draw(st.integers(2, 3))]]
    pinned = {layers[0]: draw(st.sampled_from(choices))} if draw(st.booleans()) and first_tied > 0 else {}
    tensors = st.builds(
        LiveTensor,
        st.just(""),
        st.integers(1, 9),
        st.builds(Demand, st.sampled_from([0, 3, 8]), st.lists(st.sampled_from(layers)).map(tuple)),
    )
    steps = draw(st.lists(st.tuples(st.just("step"), st.lists(tensors, min_size=1, max_size=3).map(tuple)), min_size=1))
    return allocation_problem(
        losses,
        costs,
        choices=choices,
        ties=[tie for tie in ties if len(tie) > 1],
        pinned=pinned,
        latency_ms=latency,
        usages=[PeakActivation(tuple(steps))],
    )


@st.composite
def budgets(draw: st.DrawFn) -> list[Budget]:
    """Up to four relative budgets, of any kind."""
    kinds = st.sampled_from(["size", "bops", "latency", "activation"])
    parts = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0, 1))
    return draw(st.lists(st.builds(Budget, kinds, parts, st.just(True)), max_size=4))


def every_choice(problem: Problem) -> Iterator[dict[str, Precision]]:
    """All choices that respect the ties."""
    for picked in product(*problem.choices.values()):
        choice = dict(zip(problem.choices, picked, strict=True))
        if all(len({choice[layer].act_bits for layer in tie}) == 1 for tie in problem.ties):
            yield choice


def brute_force(problem: Problem, wanted: Iterable[Budget]) -> list[dict[str, Precision]]:
    """All choices within the budgets, by loss."""
    limits = resolve(problem, wanted)
    fitting = [choice for choice in every_choice(problem) if fits(problem, choice, limits)]
    return sorted(fitting, key=problem.loss)


def fits(problem: Problem, choice: Choice, limits: Sequence[tuple[str, int]]) -> bool:
    """Whether a choice uses no more whole units than allowed."""
    return all(problem.usages[kind].of(choice) <= most for kind, most in limits)
