# SPDX-License-Identifier: MIT
"""Fair timing of several callables: interleaved, warmed up, reported as medians with their spread."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from bitwright.errors import unknown_name
from bitwright.progress import Progress, silent

Clock = Callable[[], float]


@dataclass(frozen=True)
class Spread:
    """The middle half of some measurements.

    Attributes:
        median: Half of them lie below.
        lower: A quarter lies below.
        upper: A quarter lies above.
    """

    median: float
    lower: float
    upper: float

    @classmethod
    def of(cls, values: list[float]) -> Spread:
        """Median and quartiles (linear interpolation between neighbours).

        >>> Spread.of([4.0, 1.0, 2.0, 3.0])
        Spread(median=2.5, lower=1.75, upper=3.25)
        """
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, lower, upper)

    def to_dict(self) -> dict[str, float]:
        """As JSON values."""
        return {"median": self.median, "lower": self.lower, "upper": self.upper}


@dataclass(frozen=True)
class Timings:
    """What `time_interleaved` measured.

    Attributes:
        milliseconds: One number for each round, by name: the mean of the calls of that round.
        calls: How often each was called in a round.
    """

    milliseconds: Mapping[str, tuple[float, ...]]
    calls: Mapping[str, int]

    def latency(self, name: str) -> Spread:
        """Milliseconds for one call."""
        return Spread.of(list(self._rounds(name)))

    def speedup(self, name: str, baseline: str) -> Spread:
        """How many times faster `name` is than `baseline`, round by round.

        The two of a round ran within moments of each other, so whatever else the machine did slowed both.
        """
        pairs = zip(self._rounds(baseline), self._rounds(name), strict=True)
        return Spread.of([slow / fast for slow, fast in pairs])

    def to_dict(self) -> dict[str, Any]:
        """As JSON values: the spread of each latency, and every round."""
        return {
            name: {**self.latency(name).to_dict(), "calls": self.calls[name], "rounds_ms": list(rounds)}
            for name, rounds in self.milliseconds.items()
        }

    def _rounds(self, name: str) -> tuple[float, ...]:
        if name not in self.milliseconds:
            raise unknown_name("measurement", name, self.milliseconds)
        return self.milliseconds[name]


def time_interleaved(
    functions: Mapping[str, Callable[[], object]],
    *,
    rounds: int = 15,
    warmup: int = 2,
    least_ms: float = 5.0,
    clock: Clock = time.perf_counter,
    progress: Progress = silent,
) -> Timings:
    """Time functions against each other.

    Every round calls each of them in turn, every other round in reverse, so that a change of the machine's speed meets all alike
    and none always runs after the same neighbour. The first `warmup` rounds are not counted. A function that takes less than
    `least_ms` is called several times in a round. Python's garbage collector is off meanwhile.

    Args:
        functions: What to call, by name.
        rounds: Counted rounds, at least 1.
        warmup: Rounds before those, at least 1: they also tell how often to call a fast function.
        least_ms: Milliseconds that a function should run in each round.
        clock: Returns seconds.
        progress: Called after every function of every round.

    Raises:
        ValueError: If there is no function, or no round.
    """
    if not functions or rounds < 1 or warmup < 1:
        raise ValueError(f"expected functions, rounds and warm-up, got {len(functions)}, {rounds} and {warmup}.")
    total = (rounds + warmup) * len(functions)
    done = 0
    calls = dict.fromkeys(functions, 1)
    measured: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    collecting = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        for turn in range(-warmup, rounds):
            for name in names if turn % 2 == 0 else reversed(names):
                spent = _milliseconds(functions[name], calls[name], clock)
                if turn >= 0:
                    measured[name].append(spent)
                else:
                    calls[name] = max(1, math.ceil(least_ms / max(spent, 1e-3)))
                done += 1
                progress(done, total)
    finally:
        if collecting:
            gc.enable()
    return Timings({name: tuple(values) for name, values in measured.items()}, calls)


def _milliseconds(function: Callable[[], object], calls: int, clock: Clock) -> float:
    """Mean milliseconds of one call."""
    start = clock()
    for _ in range(calls):
        function()
    return 1000 * (clock() - start) / calls
