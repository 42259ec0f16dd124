# SPDX-License-Identifier: MIT
"""How sensitivities are measured: one value, the same from Python and from the command line."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from bitwright.errors import SchemeError
from bitwright.quantizer.weights import Method
from bitwright.scheme import MAX_BITS, MIN_BITS
from bitwright.sensitivity.probing import SamplingLimits

DEFAULT_METRIC = "gauss_newton_trace"


@dataclass(frozen=True, kw_only=True)
class SensitivitySettings:
    """How sensitivities are measured.

    Attributes:
        metric: One of `METRICS`; docs/sensitivity.md compares them.
            `gauss_newton_trace`: the trace of the Gauss-Newton matrix, from gradient norms of single images; that of the
            Hessian wherever the network is piecewise linear.
            `hutchinson_trace`: the trace of the Hessian itself from random probes, as the HAWQ papers find it; slower by
            orders of magnitude.
            `empirical_fisher`: squared gradients at the true targets.
            `top_eigenvalue`: the Hessian's largest eigenvalue, see `top_eigenvalue` and `top_activation_eigenvalue`. The
            layer's term is this eigenvalue times the squared perturbation, which the increase of the loss (twice, to second
            order) cannot exceed; HAWQ-V1 orders layers by the eigenvalue over the number of weights.
            `loss_perturbation`: the loss with one layer quantized.
        activations: Whether to measure what the layers read, too.
        bits: Widths at which to measure perturbations, each 2 to 8; kept in ascending order.
        relative_error: Target for standard error / |trace| of each layer, from sampling.
        min_probes: At least this many: products for each layer, or directions at the outputs for all of them.
        max_probes: At most this many; None takes the metric's own. Layers that need more come back with `converged=False`.
        max_seconds: No layer gets more than `min_probes` once this much time has passed; looked at between rounds of samples.
        micro_batch: Images in one pass: what bounds the memory.
        seed: The seed of probes and draws.
        scale_method: How the quantizer that the table is meant for finds its weight scales: `mse` for learned and fixed
            ranges, `max` for those that follow the weights' maximum. Another method has another perturbation.

    Raises:
        SchemeError: If a width is out of range.
    """

    metric: str = DEFAULT_METRIC
    activations: bool = True
    bits: Iterable[int] = range(MIN_BITS, MAX_BITS + 1)
    relative_error: float = 0.05
    min_probes: int = 10
    max_probes: int | None = None
    max_seconds: float = math.inf
    micro_batch: int = 64
    seed: int = 0
    scale_method: Method = "mse"

    def __post_init__(self) -> None:
        widths = tuple(sorted(set(self.bits)))
        if not widths or widths[0] < MIN_BITS or widths[-1] > MAX_BITS:
            raise SchemeError(f"bits must be one or more of {MIN_BITS} to {MAX_BITS}, got {list(widths)}.")
        object.__setattr__(self, "bits", widths)

    def limits(self, most: int) -> SamplingLimits:
        """When sampling stops.

        Args:
            most: Probes that the metric takes at most where `max_probes` is None.
        """
        limit = max(most, self.min_probes) if self.max_probes is None else self.max_probes
        return SamplingLimits(self.relative_error, min(self.min_probes, limit), limit, self.max_seconds)

    def decisive(self) -> dict[str, Any]:
        """All that decides the samples, as JSON values: without what says how long to go on."""
        return {name: value for name, value in asdict(self).items() if name != "max_seconds"}
