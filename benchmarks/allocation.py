# SPDX-License-Identifier: MIT
"""Milliseconds that an exact search takes: `python benchmarks/allocation.py --json FILE`.

ResNet152 with seven widths of each layer and three budgets at once (size, BOPs, latency), against HiGHS on the same integer
programs, interleaved; and the 49-point Pareto frontier of ResNet50. Perturbations are those of the networks' random weights,
traces are drawn (log-normal, two orders of magnitude wide, as measured ones are), latencies are those of a roofline: what the
figures are changes nothing in what a search must do. Every problem has other traces and other budgets.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bitwright.allocation import Problem, allocate, allocation_problem, pareto_frontier
from bitwright.allocation.highs import best_by_highs
from bitwright.allocation.search import resolve
from bitwright.benchmark import environment
from bitwright.benchmark.timing import Spread
from bitwright.cli.console import bar
from bitwright.cost import LayerCost
from bitwright.graph import Graph, capture, layer_costs, load_model
from bitwright.scheme import Budget, Precision
from bitwright.sensitivity.perturbation import weight_perturbations

CHOICES = tuple(Precision(bits, bits) for bits in range(2, 9))
PINNED = Precision(8, 8)
BYTES_PER_MS, BOPS_PER_MS = 1e7, 64 * 1e8
"""A roofline: 10 GB/s, and 100 G multiply-accumulates of 8 bits in a second."""


@cache
def network(name: str) -> tuple[Graph, dict[str, dict[int, float]]]:
    """The captured network, and how far each width moves the weights of each layer."""
    torch.manual_seed(0)
    graph = capture(load_model(f"pytorchcv:{name}"), (3, 224, 224), name=name)
    widths = [precision.weight_bits for precision in CHOICES]
    moved = {
        layer: dict(weight_perturbations(graph.parameters[node.weight], widths, "mse"))
        for layer, node in graph.layers.items()
    }
    return graph, moved


def latency_ms(cost: LayerCost, precision: Precision) -> float:
    """Of the roofline."""
    return max(cost.size_bytes(precision) / BYTES_PER_MS, cost.bops(precision) / BOPS_PER_MS)


def problem(name: str, rng: np.random.Generator) -> Problem:
    """One search, with its own traces; the first and last layer stay at 8 bits."""
    graph, moved = network(name)
    costs = layer_costs(graph)
    ends = {next(iter(costs)), next(reversed(costs))}
    losses = {
        layer: {precision: trace * moved[layer][precision.weight_bits] / costs[layer].weights for precision in CHOICES}
        for layer, trace in zip(costs, np.exp(rng.normal(0, math.log(10), len(costs))), strict=True)
    }
    return allocation_problem(
        losses,
        costs,
        choices=CHOICES,
        pinned=dict.fromkeys(ends, PINNED),
        latency_ms={
            layer: {precision: latency_ms(cost, precision) for precision in (*CHOICES, PINNED)}
            for layer, cost in costs.items()
        },
    )


def by_highs(stated: Problem, budgets: list[Budget]) -> float:
    """The least loss that the general solver finds, in its units; what `allocate` is compared with."""
    limits = resolve(stated, budgets)
    options = stated.options
    rows = [stated.first_amounts(kind) for kind, _ in limits]
    amounts = np.array([row for row, _ in rows])
    room = [most - constant for (_, constant), (_, most) in zip(rows, limits, strict=True)]
    (picked,) = best_by_highs(options.losses, amounts, room, options.starts)
    return stated.loss(stated.ordered(options.choice(list(picked))))


def timed(function: Any) -> tuple[float, Any]:
    """Milliseconds, and what came out."""
    begin = time.perf_counter()
    found = function()
    return 1000 * (time.perf_counter() - begin), found


def searches(problems: int, peers: int, seed: int) -> dict[str, Any]:
    """Times of `allocate` on ResNet152, and of HiGHS on the first few of the same problems."""
    rng = np.random.default_rng(seed)
    ours: list[float] = []
    theirs: list[float] = []
    with bar("searching for ResNet152") as progress:
        for number in range(problems + 1):
            stated = problem("resnet152", rng)
            budgets = [Budget.parse(f"{kind}{rng.uniform(0.2, 0.8):.3f}") for kind in ("size", "bops", "latency")]
            ms, found = timed(lambda stated=stated, budgets=budgets: allocate(stated, budgets))
            if number == 0:
                continue  # imports and caches
            ours.append(ms)
            if number <= peers:
                ms, loss = timed(lambda stated=stated, budgets=budgets: by_highs(stated, budgets))
                if found.objective > loss * (1 + 1e-9):
                    raise SystemExit(f"problem {number}: found {found.objective}, HiGHS {loss}")
                theirs.append(ms)
            progress(number, problems)
    ratio = [slow / fast for slow, fast in zip(theirs, ours, strict=False)]
    return {
        "network": "resnet152", "layers": len(layer_costs(network("resnet152")[0])), "widths": len(CHOICES), "budgets": 3,
        "problems": problems, "ms": Spread.of(ours).to_dict(), "most_ms": max(ours),
        "within_50_ms": sum(ms <= 50 for ms in ours) / len(ours), "highs_problems": len(theirs),
        "highs_ms": Spread.of(theirs).to_dict(), "speedup_over_highs": Spread.of(ratio).to_dict(),
    }  # fmt: skip


def frontiers(repeats: int, seed: int) -> dict[str, Any]:
    """Times of the frontier of ResNet50 over its size."""
    rng = np.random.default_rng(seed)
    times, points = [], []
    with bar("tracing frontiers of ResNet50") as progress:
        for number in range(repeats):
            stated = problem("resnet50", rng)
            ms, found = timed(lambda stated=stated: pareto_frontier(stated, "size", 49))
            times.append(ms)
            points.append(len(found.points))
            progress(number + 1, repeats)
    return {
        "network": "resnet50", "limits": 49, "fewest_points": min(points), "repeats": repeats,
        "ms": Spread.of(times).to_dict(), "most_ms": max(times),
    }  # fmt: skip


def main() -> None:
    """Measure, print, and write JSON if asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=40)
    parser.add_argument("--highs", type=int, default=5, help="on how many of them HiGHS runs, too")
    parser.add_argument("--frontiers", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    found = {
        "environment": environment().to_dict(),
        "search": searches(arguments.problems, arguments.highs, arguments.seed),
        "frontier": frontiers(arguments.frontiers, arguments.seed),
    }
    print(json.dumps(found, indent=2))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
