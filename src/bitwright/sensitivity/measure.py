# SPDX-License-Identifier: MIT
"""From a loss to a table of sensitivities, in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from torch import Tensor

from bitwright.scheme import MAX_BITS, MIN_BITS
from bitwright.sensitivity.hutchinson import Progress, hutchinson_trace
from bitwright.sensitivity.perturbation import weight_perturbations
from bitwright.sensitivity.table import LayerSensitivity, SensitivityTable


def weight_sensitivities(
    loss: Tensor | Callable[[], Tensor],
    weights: Mapping[str, Tensor],
    *,
    bits: Iterable[int] = range(MIN_BITS, MAX_BITS + 1),
    relative_error: float = 0.05,
    min_probes: int = 10,
    max_probes: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    model: str = "",
    data: str = "",
    batch: int = 0,
) -> SensitivityTable:
    """Measure Hessian traces and perturbations of the weights that will be quantized.

    Args:
        loss: See `hutchinson_trace`.
        weights: By layer name, shaped (channels, ...), each requiring grad.
        bits: Widths at which to measure the perturbation.
        relative_error: Target for the standard error of each trace, relative to it.
        min_probes: At least this many products for each layer.
        max_probes: At most this many.
        seed: Of the probes.
        progress: Called after each probe.
        model: Kept in the table, as are the following.
        data: The data's name.
        batch: Number of images in the loss.

    Returns:
        One entry for each weight, in the order given.

    Raises:
        TrainingError: If the loss or a product is not finite.
    """
    widths = tuple(bits)
    traces = hutchinson_trace(
        loss,
        weights,
        relative_error=relative_error,
        min_probes=min_probes,
        max_probes=max_probes,
        seed=seed,
        progress=progress,
    )
    layers = tuple(
        LayerSensitivity(
            layer=name,
            parameters=weight.numel(),
            trace=traces[name].trace,
            trace_standard_error=traces[name].standard_error,
            probes=traces[name].probes,
            converged=traces[name].converged,
            perturbation=weight_perturbations(weight, widths),
        )
        for name, weight in weights.items()
    )
    return SensitivityTable(layers, "hessian_trace", model, data, batch, seed)
