# SPDX-License-Identifier: MIT
"""From a graph and a batch of images to a table of sensitivities, in one call."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from bitwright.errors import SchemeError, unknown_name
from bitwright.graph.graph import Graph
from bitwright.progress import Progress, silent
from bitwright.scheme import MAX_BITS, MIN_BITS
from bitwright.sensitivity.hutchinson import hutchinson_trace
from bitwright.sensitivity.loss import GraphLoss
from bitwright.sensitivity.perturbation import weight_perturbations
from bitwright.sensitivity.table import LayerSensitivity, SensitivityTable
from bitwright.sensitivity.weight_scale import Method

METRICS = ("hessian_trace",)


def measure_sensitivity(
    graph: Graph,
    images: Tensor,
    labels: Tensor,
    *,
    metric: str = "hessian_trace",
    bits: Iterable[int] = range(MIN_BITS, MAX_BITS + 1),
    relative_error: float = 0.05,
    min_probes: int = 10,
    max_probes: int = 1000,
    max_seconds: float = float("inf"),
    seed: int = 0,
    scale_method: Method = "mse",
    data: str = "",
    progress: Progress = silent,
) -> SensitivityTable:
    """Measure how much the loss of a network suffers when a layer is quantized.

    The Hessian is that of the mean cross entropy over each layer's folded weights: those that get quantized. Batch norm
    counts with its running statistics. The graph, its tensors and their gradients stay as they are.

    Args:
        graph: A trained classifier.
        images: Shape (batch, channels, height, width).
        labels: Their classes, shape (batch,).
        metric: One of `METRICS`.
        bits: Widths at which to measure the perturbation of the weights, each 2 to 8.
        relative_error: Target for standard error / |trace| of each layer.
        min_probes: At least this many products for each layer.
        max_probes: At most this many for each layer; layers that need more come back with `converged=False`.
        max_seconds: No layer gets more than `min_probes` once this much time has passed.
        seed: Of the probes.
        scale_method: How the quantizer that the table is meant for finds its weight scales: `mse` for learned and fixed
            ranges, `max` for those that follow the weights' maximum. Another method has another perturbation.
        data: The data's name, kept in the table.
        progress: Called after each product, see `probe_layers`.

    Returns:
        One entry for each layer, named as in the graph, in execution order.

    Raises:
        DataError: If images or labels do not fit the network.
        SchemeError: If a width is out of range.
        TrainingError: If the loss or a product is not finite.
        UnknownNameError: If there is no such metric.
    """
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    widths = sorted(set(bits))
    if not widths or widths[0] < MIN_BITS or widths[-1] > MAX_BITS:
        raise SchemeError(f"bits must be one or more of {MIN_BITS} to {MAX_BITS}, got {widths}.")
    loss = GraphLoss(graph, images, labels)
    traces = hutchinson_trace(
        loss,
        loss.weights,
        relative_error=relative_error,
        min_probes=min_probes,
        max_probes=max_probes,
        seed=seed,
        max_seconds=max_seconds,
        progress=progress,
    )
    layers = tuple(
        LayerSensitivity(
            layer=name,
            parameters=weight.numel(),
            trace=traces[name].value,
            trace_standard_error=traces[name].standard_error,
            probes=traces[name].samples,
            converged=traces[name].converged,
            perturbation=weight_perturbations(weight, widths, scale_method),
        )
        for name, weight in loss.weights.items()
    )
    return SensitivityTable(layers, metric, graph.model, data, len(images), seed)
