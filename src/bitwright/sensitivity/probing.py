# SPDX-License-Identifier: MIT
"""Which layer to sample next, and when to stop: the limits that all sampled estimators share."""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from bitwright.errors import TrainingError
from bitwright.progress import Progress, silent
from bitwright.sensitivity.estimate import Estimate, RunningMean


@dataclass(frozen=True)
class SamplingLimits:
    """How well each layer must be known, and what that may take.

    Attributes:
        relative_error: Target for standard error / |value| of each layer.
        min_probes: At least this many for each layer, so that the standard error itself is known.
        max_probes: At most this many for each layer.
        max_seconds: No layer gets more than `min_probes` once this much time has passed. Results then depend on the speed
            of the machine.
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


def probe_layers(
    layers: Iterable[str], probe: Callable[[str], float], limits: SamplingLimits, progress: Progress = silent
) -> dict[str, Estimate]:
    """Average `probe(layer)` for each layer until its standard error is small enough or the limits are reached.

    Every layer first gets its `min_probes`; from then on the least certain one comes next, so that a limit of time
    leaves no layer behind.

    Args:
        layers: Their names.
        probe: One sample of a layer. Samples of a layer must not depend on the other layers, or on when they are taken.
        limits: When to stop.
        progress: Called after each probe with those done, those expected in all, the largest relative error yet to
            converge as `relative_error` and the number of such layers as `unconverged`.

    Returns:
        One estimate for each layer, in the order given.

    Raises:
        TrainingError: If a sample is not finite.
    """
    end = time.monotonic() + limits.max_seconds
    sampled = {layer: RunningMean() for layer in layers}
    while waiting := [layer for layer in sampled if limits.wants(sampled[layer])]:
        short = [layer for layer in waiting if sampled[layer].count < limits.min_probes]
        if not short and time.monotonic() >= end:
            break
        layer = short[0] if short else max(waiting, key=lambda name: sampled[name].relative_error)
        value = probe(layer)
        if not math.isfinite(value):
            raise TrainingError(
                f"layer '{layer}' gave {value} at probe {sampled[layer].count + 1}: check the weights and the images "
                "for huge values, or measure in float64."
            )
        sampled[layer].add(value)
        left = [mean.relative_error for mean in sampled.values() if limits.wants(mean)]
        progress(
            sum(mean.count for mean in sampled.values()),
            sum(limits.expected(mean) for mean in sampled.values()),
            relative_error=max(left, default=0.0),
            unconverged=len(left),
        )
    return {layer: mean.estimate(limits.relative_error) for layer, mean in sampled.items()}


def layer_seed(seed: int, layer: str) -> int:
    """A seed of a layer's own, the same on every machine; 32 bits, since PyTorch's CPU generator drops all others.

    >>> layer_seed(0, "stem"), layer_seed(1, "stem")
    (1607617488, 2492373109)
    """
    return zlib.crc32(f"{seed}:{layer}".encode())
