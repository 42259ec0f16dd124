# SPDX-License-Identifier: MIT
"""Estimates put together to entries of the table, one for each layer and for what it reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from bitwright.graph.graph import Graph
from bitwright.sensitivity.activations import activation_perturbations
from bitwright.sensitivity.estimate import Estimate
from bitwright.sensitivity.loss import GraphLoss
from bitwright.sensitivity.perturbation import weight_perturbations
from bitwright.sensitivity.settings import SensitivitySettings
from bitwright.sensitivity.table import LayerSensitivity

Entries = tuple[LayerSensitivity, ...]
Estimates = Mapping[str, Estimate]
"""By layer."""


def curved(loss: GraphLoss, settings: SensitivitySettings, weights: Estimates, read: Estimates) -> Entries:
    """Entries of traces, or of what stands for them, beside the perturbations at each width.

    Args:
        loss: The network and the images.
        settings: Say at which widths weights and activations are perturbed, and how.
        weights: The weights of each layer's weights.
        read: The tensor that each layer reads; empty where activations were not measured.
    """
    entries = {
        name: _traced(
            name, weight.numel(), weights[name], weight_perturbations(weight, settings.bits, settings.scale_method)
        )
        for name, weight in loss.weights.items()
    }
    if read:
        moved = activation_perturbations(loss, settings.bits, settings.micro_batch, settings.seed)
        for name, estimate in read.items():
            own = _traced(name, elements(loss.graph, name), estimate, moved[name])
            entries[name] = replace(entries[name], activations=own)
    return tuple(entries.values())


def increased(
    loss: GraphLoss, weights: Mapping[str, Mapping[int, Estimate]], read: Mapping[str, Mapping[int, Estimate]]
) -> Entries:
    """Entries of measured increases of the loss by layer and width; `read` is empty where activations were not measured."""
    entries = {name: _measured(name, weight.numel(), weights[name]) for name, weight in loss.weights.items()}
    for name, increases in read.items():
        own = _measured(name, elements(loss.graph, name), increases)
        entries[name] = replace(entries[name], activations=own)
    return tuple(entries.values())


def elements(graph: Graph, layer: str) -> int:
    """Elements of the tensor that a layer reads, for one image."""
    return torch.Size(graph[graph[layer].inputs[0]].shape).numel()


def times(factor: int, estimate: Estimate) -> Estimate:
    """An estimate of so many times the value."""
    spread = estimate.data_standard_error
    return replace(
        estimate,
        value=factor * estimate.value,
        standard_error=factor * estimate.standard_error,
        data_standard_error=None if spread is None else factor * spread,
    )


def _traced(name: str, size: int, estimate: Estimate, perturbation: Mapping[int, float]) -> LayerSensitivity:
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


def _measured(name: str, size: int, increases: Mapping[int, Estimate]) -> LayerSensitivity:
    """It counts as converged where the increase at the fewest bits is."""
    lowest = increases[min(increases)]
    pairs = {width: (estimate.value, estimate.standard_error) for width, estimate in increases.items()}
    return LayerSensitivity(name, size, 0.0, 0.0, lowest.samples, lowest.converged, {}, None, pairs)
