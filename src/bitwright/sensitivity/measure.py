# SPDX-License-Identifier: MIT
"""From a graph and a batch of images to a table of sensitivities, in one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitwright.data.given import each_labelled
from bitwright.errors import DataError, SchemeError, unknown_name
from bitwright.graph.autocast import full_precision
from bitwright.graph.digest import digest, network_digest
from bitwright.graph.graph import Graph
from bitwright.progress import Progress, silent
from bitwright.quantizer.weights import Method
from bitwright.scheme import MAX_BITS, MIN_BITS
from bitwright.sensitivity.activation_eigenvalue import top_activation_eigenvalue
from bitwright.sensitivity.activations import activation_perturbations
from bitwright.sensitivity.checkpoint import Checkpoint
from bitwright.sensitivity.estimate import Estimate
from bitwright.sensitivity.gauss_newton import MAX_PAIRS, empirical_fisher_trace, gauss_newton_trace
from bitwright.sensitivity.hutchinson import activation_hutchinson_trace, hutchinson_trace
from bitwright.sensitivity.loss import GraphLoss
from bitwright.sensitivity.loss_perturbation import activation_loss_perturbation, weight_loss_perturbation
from bitwright.sensitivity.perturbation import weight_perturbations
from bitwright.sensitivity.piecewise_linear import require_piecewise_linear
from bitwright.sensitivity.probing import SamplingLimits
from bitwright.sensitivity.table import LayerSensitivity, SensitivityTable
from bitwright.sensitivity.top_eigenvalue import MAX_STEPS, top_eigenvalue

MAX_PRODUCTS = 1000
METRICS = {
    "hessian_trace": MAX_PAIRS,
    "hutchinson_trace": MAX_PRODUCTS,
    "empirical_fisher": MAX_PAIRS,
    "top_eigenvalue": MAX_STEPS,
    "loss_perturbation": 2,
}
"""The metrics, with the probes that they take at most by default."""


@full_precision()
def measure_sensitivity(
    graph: Graph,
    images: Tensor | Iterable[Any],
    labels: Tensor | None = None,
    *,
    metric: str = "hessian_trace",
    activations: bool = True,
    bits: Iterable[int] = range(MIN_BITS, MAX_BITS + 1),
    relative_error: float = 0.05,
    min_probes: int = 10,
    max_probes: int | None = None,
    max_seconds: float = float("inf"),
    micro_batch: int = 64,
    seed: int = 0,
    scale_method: Method = "mse",
    data: str = "",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> SensitivityTable:
    """Measure how much the loss of a network suffers when a layer is quantized.

    The loss is the mean cross entropy, as a function of each layer's folded weights (those that get quantized) and of the
    tensor that the layer reads. Batch norm counts with its running statistics. The graph, its tensors and their gradients
    stay as they are.

    Where torch.distributed is initialised, the processes share the work: call it in each with the same arguments, and each
    gets the table that one process would have made.

    Args:
        graph: A trained classifier, on any device; all is computed there.
        images: Shape (batch, channels, height, width). With `hessian_trace` more images cost little: hundreds or thousands
            keep the choice of images from drowning the estimate. Or, without `labels`, a DataLoader or another iterable of
            (images, labels), all of which is taken.
        labels: Their classes, shape (batch,).
        metric: One of `METRICS`.
            `hessian_trace`: from gradient norms of single images, see `gauss_newton_trace`; equal to the Hessian's for every
            network that can be captured, since all operations are piecewise linear.
            `hutchinson_trace`: the same number from random probes of the Hessian, as the HAWQ papers find it; slower by
            orders of magnitude.
            `empirical_fisher`: squared gradients at the true labels.
            `top_eigenvalue`: the Hessian's largest eigenvalue, see `top_eigenvalue` and `top_activation_eigenvalue`. The layer's
            term is this eigenvalue times the squared perturbation, which the increase of the loss (twice, to second order)
            cannot exceed; HAWQ-V1 orders layers by the eigenvalue over the number of weights.
            `loss_perturbation`: the loss with one layer quantized.
        activations: Whether to measure what the layers read, too.
        bits: Widths at which to measure perturbations, each 2 to 8.
        relative_error: Target for standard error / |trace| of each layer, from sampling.
        min_probes: At least this many: products for each layer, or pairs of an image and a class for all of them.
        max_probes: At most this many; None takes the metric's own. Layers that need more come back with `converged=False`.
        max_seconds: No layer gets more than `min_probes` once this much time has passed; looked at between rounds of samples.
        micro_batch: Images in one pass: what bounds the memory.
        seed: Of probes and draws.
        scale_method: How the quantizer that the table is meant for finds its weight scales: `mse` for learned and fixed
            ranges, `max` for those that follow the weights' maximum. Another method has another perturbation.
        data: The data's name, kept in the table.
        checkpoint: File to keep partial results in, every few seconds, or None.
        resume: Whether to start from `checkpoint`, if it exists; the table is then that of an uninterrupted measurement, bit
            for bit. The file stays: delete it once the table is saved.
        progress: Called as samples come in.

    Returns:
        One entry for each layer, named as in the graph, in execution order.

    Raises:
        DataError: If images or labels do not fit the network.
        FileFormatError: If the checkpoint is damaged, or belongs to another measurement.
        SchemeError: If a width is out of range.
        TrainingError: If the loss or a gradient is not finite, or if `hessian_trace` is asked of a network that is not
            piecewise linear.
        UnknownNameError: If there is no such metric.
    """
    if metric not in METRICS:
        raise unknown_name("metric", metric, METRICS)
    widths = sorted(set(bits))
    if not widths or widths[0] < MIN_BITS or widths[-1] > MAX_BITS:
        raise SchemeError(f"bits must be one or more of {MIN_BITS} to {MAX_BITS}, got {widths}.")
    if metric == "hessian_trace":
        require_piecewise_linear(graph)
    if labels is None:
        pairs = list(each_labelled(images))
        if not pairs:
            raise DataError("sensitivities need at least one batch of images, got none.")
        images, labels = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    if not isinstance(images, Tensor):
        raise DataError("expected labels within the batches or beside one tensor of images, got both.")
    loss = GraphLoss(graph, images, labels)
    limit = max(METRICS[metric], min_probes) if max_probes is None else max_probes
    limits = SamplingLimits(relative_error, min(min_probes, limit), limit, max_seconds)
    network, shown = network_digest(graph), digest(loss.images, loss.labels)
    origin = (metric, graph.model, data, len(images), seed, network, shown)
    settings: dict[str, Any] = {}
    if checkpoint is not None:
        settings = {
            "metric": metric, "activations": activations, "bits": widths, "relative_error": relative_error,
            "min_probes": limits.min_probes, "max_probes": limits.max_probes, "micro_batch": micro_batch, "seed": seed,
            "scale_method": scale_method, "network": network, "images": shown,
        }  # fmt: skip
    with Checkpoint(checkpoint, settings, resume) as kept:
        if metric == "loss_perturbation":
            layers = _measured(
                loss, widths, activations, scale_method, relative_error, micro_batch, seed, kept, progress
            )
            return SensitivityTable(layers, *origin)
        found, read = _curvatures(loss, metric, activations, limits, micro_batch, seed, kept, progress)
    entries = {
        name: _entry(name, weight.numel(), found[name], weight_perturbations(weight, widths, scale_method))
        for name, weight in loss.weights.items()
    }
    if activations:
        moved = activation_perturbations(loss, widths, micro_batch, seed)
        for name, estimate in read.items():
            own = _entry(name, _elements(graph, name), estimate, moved[name])
            entries[name] = replace(entries[name], activations=own)
    return SensitivityTable(tuple(entries.values()), *origin)


def _curvatures(
    loss: GraphLoss,
    metric: str,
    activations: bool,
    limits: SamplingLimits,
    micro_batch: int,
    seed: int,
    kept: Checkpoint,
    progress: Progress,
) -> tuple[Mapping[str, Estimate], Mapping[str, Estimate]]:
    """By layer, n times the mean eigenvalue or what stands for it; and the same of what it reads, if asked for."""
    if metric in ("hessian_trace", "empirical_fisher"):
        trace = gauss_newton_trace if metric == "hessian_trace" else empirical_fisher_trace
        curvatures = trace(
            loss, limits=limits, micro_batch=micro_batch, seed=seed, partial=kept.part(metric), progress=progress
        )
        by_weight = {name: curvature.weights for name, curvature in curvatures.items()}
        return by_weight, {name: curvature.activations for name, curvature in curvatures.items()}
    of_weights, of_activations = _BY_PRODUCTS[metric]
    made = 0

    def first(done: int, total: int, /, **figures: float) -> None:
        nonlocal made
        made = total
        progress(done, total * (1 + activations), **figures)

    def second(done: int, total: int, /, **figures: float) -> None:
        progress(made + done, made + total, **figures)

    found = of_weights(
        loss.terms(micro_batch),
        loss.weights,
        limits=limits,
        seed=seed,
        partial=kept.part(metric),
        progress=first,
    )
    read: dict[str, Estimate] = {}
    if activations:
        read = of_activations(
            loss,
            micro_batch=micro_batch,
            limits=limits,
            seed=seed,
            partial=kept.part(f"{metric}_of_activations"),
            progress=second,
        )
    if metric == "top_eigenvalue":
        found = {name: _times(loss.weights[name].numel(), estimate) for name, estimate in found.items()}
        read = {name: _times(_elements(loss.graph, name), estimate) for name, estimate in read.items()}
    return found, read


_BY_PRODUCTS = {
    "hutchinson_trace": (hutchinson_trace, activation_hutchinson_trace),
    "top_eigenvalue": (top_eigenvalue, top_activation_eigenvalue),
}


def _times(factor: int, estimate: Estimate) -> Estimate:
    spread = estimate.data_standard_error
    return replace(
        estimate,
        value=factor * estimate.value,
        standard_error=factor * estimate.standard_error,
        data_standard_error=None if spread is None else factor * spread,
    )


def _measured(
    loss: GraphLoss,
    widths: list[int],
    activations: bool,
    scale_method: Method,
    relative_error: float,
    micro_batch: int,
    seed: int,
    kept: Checkpoint,
    progress: Progress,
) -> tuple[LayerSensitivity, ...]:
    """Entries whose terms are measured increases; they count as converged where that at the fewest bits is."""
    steps = len(loss.weights) * len(widths)

    def first(done: int, total: int, /, **figures: float) -> None:
        progress(done, steps * (1 + activations), **figures)

    def second(done: int, total: int, /, **figures: float) -> None:
        progress(steps + done, 2 * steps, **figures)

    found = weight_loss_perturbation(
        loss,
        widths,
        scale_method=scale_method,
        relative_error=relative_error,
        micro_batch=micro_batch,
        partial=kept.part("weights"),
        progress=first,
    )
    read = None
    if activations:
        read = activation_loss_perturbation(
            loss,
            widths,
            relative_error=relative_error,
            micro_batch=micro_batch,
            seed=seed,
            partial=kept.part("activations"),
            progress=second,
        )

    def entry(name: str, size: int, increases: Mapping[int, Estimate]) -> LayerSensitivity:
        lowest = increases[min(increases)]
        pairs = {width: (estimate.value, estimate.standard_error) for width, estimate in increases.items()}
        return LayerSensitivity(name, size, 0.0, 0.0, lowest.samples, lowest.converged, {}, None, pairs)

    entries = []
    for name, weight in loss.weights.items():
        own = entry(name, weight.numel(), found[name])
        if read is not None:
            own = replace(own, activations=entry(name, _elements(loss.graph, name), read[name]))
        entries.append(own)
    return tuple(entries)


def _entry(name: str, size: int, estimate: Estimate, perturbation: Mapping[int, float]) -> LayerSensitivity:
    return LayerSensitivity(
        layer=name,
        parameters=size,
        trace=estimate.value,
        trace_standard_error=estimate.standard_error,
        probes=estimate.samples,
        converged=estimate.converged,
        perturbation=perturbation,
        data_standard_error=estimate.data_standard_error,
    )


def _elements(graph: Graph, layer: str) -> int:
    """Elements of the tensor that a layer reads, for one image."""
    return torch.Size(graph[graph[layer].inputs[0]].shape).numel()
