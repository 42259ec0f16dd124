# SPDX-License-Identifier: MIT
"""Timing is interleaved, excludes warm-up, and tells medians, quartiles and ratios of what one round measured."""

from __future__ import annotations

import gc
import json

import pytest

from bitwright.benchmark import Spread, Timings, time_interleaved
from bitwright.errors import UnknownNameError


class FakeClock:
    """Time that passes only in the functions that are timed; `slowdown` changes it from round to round."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []
        self.slowdown = 1.0

    def __call__(self) -> float:
        return self.now

    def function(self, name: str, seconds: float):
        def call() -> None:
            self.order.append(name)
            self.now += seconds * self.slowdown

        return call


def test_rounds_are_interleaved_and_reversed() -> None:
    """Each round calls every function in turn, every other round backwards, after the warm-up."""
    clock = FakeClock()
    functions = {name: clock.function(name, 0.01) for name in "abc"}
    timings = time_interleaved(functions, rounds=3, warmup=1, clock=clock)
    assert "".join(clock.order) == "cba" + "abc" + "cba" + "abc"
    assert {name: len(rounds) for name, rounds in timings.milliseconds.items()} == {"a": 3, "b": 3, "c": 3}


def test_fast_functions_are_called_often() -> None:
    """A function of 1 ms runs 20 times a round to fill 20 ms; one of 30 ms runs once; both are told per call."""
    clock = FakeClock()
    functions = {"fast": clock.function("fast", 0.001), "slow": clock.function("slow", 0.03)}
    timings = time_interleaved(functions, rounds=2, warmup=1, least_ms=20.0, clock=clock)
    assert 20 <= timings.calls["fast"] <= 21
    assert timings.calls["slow"] == 1
    assert timings.latency("fast").median == pytest.approx(1.0)
    assert timings.latency("slow").median == pytest.approx(30.0)


def test_a_slow_machine_does_not_change_ratios() -> None:
    """Whatever slows a whole round slows both sides of its ratio."""
    clock = FakeClock()
    slow, fast = clock.function("float", 0.03), clock.function("integer", 0.01)

    def disturbed() -> None:
        clock.slowdown = 1.0 + len(clock.order) // 2 % 3
        slow()

    functions = {"float": disturbed, "integer": fast}
    timings = time_interleaved(functions, rounds=12, warmup=2, least_ms=0.001, clock=clock)
    latency, speedup = timings.latency("float"), timings.speedup("integer", "float")
    assert latency.upper > 1.5 * latency.lower
    assert speedup.lower <= 3.0 <= speedup.upper
    assert timings.speedup("float", "float") == Spread(1.0, 1.0, 1.0)


def test_the_collector_is_off_meanwhile_and_on_again() -> None:
    """Python's garbage collector never runs within a measurement, and an error does not leave it off."""
    seen = []

    def fails() -> None:
        seen.append(gc.isenabled())
        raise RuntimeError("stop")

    assert gc.isenabled()
    with pytest.raises(RuntimeError, match="stop"):
        time_interleaved({"fails": fails})
    assert seen == [False]
    assert gc.isenabled()


def test_progress_and_json() -> None:
    """Progress reaches its total, and a result is JSON."""
    steps = []
    timings = time_interleaved(
        {"nothing": lambda: None},
        rounds=3,
        warmup=2,
        least_ms=0.01,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert steps == [(index, 5) for index in range(1, 6)]
    stored = json.loads(json.dumps(timings.to_dict()))["nothing"]
    assert set(stored) == {"median", "lower", "upper", "calls", "rounds_ms"}
    assert len(stored["rounds_ms"]) == 3


def test_unknown_names_and_empty_requests() -> None:
    """A name that was not measured is answered with those that were; nothing to do is an error."""
    with pytest.raises(UnknownNameError, match="'integer'"):
        Timings({"float": (1.0,)}, {"float": 1}).latency("integer")
    with pytest.raises(ValueError, match="expected functions"):
        time_interleaved({})
    with pytest.raises(ValueError, match="0 and 2"):
        time_interleaved({"a": lambda: None}, rounds=0)
