# SPDX-License-Identifier: MIT
"""The schemes of HAWQ-V3's model zoo, from its own sensitivities and latencies, as optima of the same programs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bitwright.allocation import Allocation, Problem, allocate, allocation_problem
from bitwright.graph import LayerCost
from bitwright.scheme import Budget, Precision

DATA = json.loads((Path(__file__).parent / "data" / "published.json").read_text())
W4, W8 = Precision(4, 4), Precision(8, 8)
CASES = [(model, key) for model, entry in DATA.items() for key in entry["published"]]
NOT_OPTIMAL = ("resnet50", "modelsize_0.25")
UNIT = {  # the published arrays count parameters in 2**20 for ResNet18, in 10**6 for ResNet50, and MACs / 16 in 10**6
    "size": lambda model, mb: mb if model == "resnet18" else mb * 2**20 / 1e6,
    "bops": lambda model, g: g * 1e9 / 64 / 16 / 1e6,
    "latency": lambda model, ms: ms,
}


def published_problem(model: str) -> Problem:
    """The program whose optima were published: interior layers, 4 or 8 bits."""
    entry = DATA[model]
    layers = entry["layers"]
    columns = ("trace_normalised", "delta_w_4bit_sq", "delta_w_8bit_sq", "latency_int4", "latency_int8")
    rows = dict(zip(layers, zip(*(entry[column] for column in columns), strict=True), strict=True))
    return allocation_problem(
        {layer: {W4: trace * four, W8: trace * eight} for layer, (trace, four, eight, _, _) in rows.items()},
        {
            layer: LayerCost(layer, weights, macs)
            for layer, weights, macs in zip(layers, entry["params_count"], entry["macs"], strict=True)
        },
        choices=(W4, W8),
        ties=entry["ties"],
        latency_ms={layer: {W4: four, W8: eight} for layer, (_, _, _, four, eight) in rows.items()},
    )


def found(model: str, key: str) -> tuple[Problem, Allocation, dict[str, Any]]:
    """The program, our optimum, and what was published."""
    problem = published_problem(model)
    return problem, allocate(problem, [Budget.parse(key)]), DATA[model]["published"][key]


def test_all_published_schemes_are_here() -> None:
    """Two networks, three kinds of budget, three limits."""
    assert len(CASES) == 18
    assert NOT_OPTIMAL in CASES


@pytest.mark.parametrize(("model", "key"), CASES)
def test_published_schemes_are_optima(model: str, key: str) -> None:
    """17 of 18 published schemes are found bit for bit; for the 18th, a strictly better one that fits."""
    problem, allocation, published = found(model, key)
    bits = [precision.weight_bits for precision in allocation.scheme.layers.values()]
    theirs = dict(zip(problem.choices, (W4 if bits == 4 else W8 for bits in published["bits"]), strict=True))
    (use,) = allocation.uses
    assert problem.usages[use.budget.kind].of(theirs) <= use.limit_whole
    if (model, key) == NOT_OPTIMAL:
        assert allocation.objective < problem.loss(theirs)
        assert use.used_whole <= use.limit_whole
        differing = [layer for layer in theirs if theirs[layer] != allocation.scheme.layers[layer]]
        assert differing == ["stage3.unit6.quant_convbn1"]
    else:
        assert bits == published["bits"]


@pytest.mark.parametrize(("model", "key"), CASES)
def test_limits_and_gaps_are_the_published_ones(model: str, key: str) -> None:
    """Relative limits, usage, objective and the distance to the second-best scheme agree with an independent solution."""
    problem, allocation, published = found(model, key)
    (use,) = allocation.uses
    in_unit = UNIT[use.budget.kind]
    assert in_unit(model, use.limit) == pytest.approx(published["limit"], rel=1e-8)
    assert in_unit(model, use.used) == pytest.approx(published["used"], rel=1e-12)
    all_four = problem.loss(dict.fromkeys(problem.choices, W4))
    assert allocation.objective - all_four == pytest.approx(published["objective"], rel=1e-9)
    assert allocation.gap == pytest.approx(published["gap"], rel=1e-6)
