# SPDX-License-Identifier: MIT
"""Which layer to sample next, and when to stop: the limits that all sampled estimators share."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.errors import TrainingError
from bitwright.processes import any_process, in_turns
from bitwright.progress import Progress, silent
from bitwright.sensitivity.checkpoint import Partial
from bitwright.sensitivity.estimate import Estimate, RunningMean

_ROUND = 10

Task = tuple[int, str, int]
"""A term of the loss, a layer, and the number of a sample."""


@dataclass(frozen=True)
class SamplingLimits:
    """How well each layer must be known, and what that may take.

    Attributes:
        relative_error: Target for standard error / |value| of each layer.
        min_probes: At least this many for each layer, so that the standard error itself is known.
        max_probes: At most this many for each layer.
        max_seconds: No layer begins another round, beyond its `min_probes`, once this much time has passed. Results then
            depend on the speed of the machine.
    """

    relative_error: float = 0.05
    min_probes: int = 10
    max_probes: int = 1000
    max_seconds: float = math.inf

    def __post_init__(self) -> None:
        if not 2 <= self.min_probes <= self.max_probes:
            raise ValueError(f"expected 2 <= min_probes <= max_probes, got {self.min_probes} and {self.max_probes}.")
        if not self.relative_error >= 0:
            raise ValueError(f"relative_error must not be negative, got {self.relative_error}.")

    def wants(self, sampled: RunningMean) -> bool:
        """Whether a layer needs another probe, time permitting."""
        if sampled.count < self.min_probes:
            return True
        return sampled.count < self.max_probes and sampled.relative_error > self.relative_error

    def expected(self, sampled: RunningMean) -> int:
        """Probes that a layer will have taken in the end: the error falls with the square root of their number."""
        if not self.wants(sampled) or sampled.count < 2:
            return max(sampled.count, self.min_probes)
        if self.relative_error == 0 or math.isinf(sampled.relative_error):
            return self.max_probes
        needed = sampled.count * (sampled.relative_error / self.relative_error) ** 2
        return min(max(math.ceil(needed), sampled.count + 1, self.min_probes), self.max_probes)

    def step(self, sampled: RunningMean) -> int:
        """Probes that a layer takes in the next round: first its least, then what it is expected to need, by tens."""
        if not self.wants(sampled):
            return 0
        if sampled.count < self.min_probes:
            return self.min_probes - sampled.count
        return min(self.expected(sampled) - sampled.count, _ROUND)


def probe_layers(
    layers: Iterable[str],
    probe: Callable[[int, str, int], float],
    limits: SamplingLimits,
    *,
    terms: int = 1,
    partial: Partial | None = None,
    progress: Progress = silent,
) -> dict[str, Estimate]:
    """Average samples of each layer until its standard error is small enough or the limits are reached.

    Every layer first gets its `min_probes`; from then on all that need more get up to ten in each round, so that a limit of
    time leaves no layer behind.

    Args:
        layers: Their names.
        probe: One product of a term, a layer, and the number of the sample from 0. A sample is the sum over terms. Products
            must not depend on each other, or on when they are made.
        limits: When to stop; time is looked at between rounds.
        terms: The terms of the loss. A round goes from term to term, since each has a graph of its own.
        partial: Products made before, and where to keep them.
        progress: Called after each product with those done, those expected in all, the largest relative error yet to
            converge as `relative_error` and the number of such layers as `unconverged`.

    Returns:
        One estimate for each layer, in the order given.

    Raises:
        TrainingError: If a product is not finite.
    """
    partial = partial or Partial()
    end = time.monotonic() + limits.max_seconds
    sampled = {layer: RunningMean() for layer in layers}
    known: dict[tuple[int, str], list[float]] = {
        (term, layer): [] if (samples := partial.found(f"{term}/{layer}", None)) is None else samples.tolist()
        for term in range(terms)
        for layer in sampled
    }

    def kept() -> dict[str, Tensor]:
        return {f"{term}/{layer}": torch.tensor(values, dtype=torch.float64) for (term, layer), values in known.items()}

    def count(task: Task) -> None:
        """Take a sample into the mean once its last term is known."""
        term, layer, number = task
        if term == terms - 1:
            sampled[layer].add(sum(known[other, layer][number] for other in range(terms)))

    while steps := {layer: step for layer, mean in sampled.items() if (step := limits.step(mean))}:
        late = time.monotonic() >= end
        if any_process(late) and all(sampled[layer].count >= limits.min_probes for layer in steps):
            break
        tasks = [
            (term, layer, number)
            for term in range(terms)
            for layer, step in steps.items()
            for number in range(sampled[layer].count, sampled[layer].count + step)
        ]
        left = [task for task in tasks if task[2] >= len(known[task[:2]])]
        for task in tasks[: len(tasks) - len(left)]:  # made before, in this order
            count(task)
        for turn in in_turns(left, lambda task: torch.tensor(probe(*task), dtype=torch.float64), lambda task: ()):
            for task, value in turn:
                _check(task, float(value))
                known[task[:2]].append(float(value))
                count(task)
            partial.keep(kept)
            errors = [mean.relative_error for mean in sampled.values() if limits.wants(mean)]
            done = sum(map(len, known.values()))
            progress(
                done,
                max(done, terms * sum(limits.expected(mean) for mean in sampled.values())),
                relative_error=max(errors, default=0.0),
                unconverged=len(errors),
            )
    return {layer: mean.estimate(limits.relative_error) for layer, mean in sampled.items()}


def _check(task: Task, value: float) -> None:
    if not math.isfinite(value):
        raise TrainingError(
            f"layer '{task[1]}' gave {value} at probe {task[2] + 1}: check the weights and the images "
            "for huge values, or measure in float64."
        )


def layer_seed(seed: int, layer: str, number: int = 0) -> int:
    """A seed of a layer's own, the same on every machine; 32 bits, since PyTorch's CPU generator drops all others.

    >>> layer_seed(0, "stem"), layer_seed(1, "stem"), layer_seed(0, "stem", 1)
    (580910847, 3996515937, 1436077673)
    """
    return zlib.crc32(f"{seed}:{layer}:{number}".encode())
