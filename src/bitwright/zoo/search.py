# SPDX-License-Identifier: MIT
"""The published searches: their sensitivities and T4 latencies, stated as problems of `bitwright.allocation`.

The loss of a layer at k bits is its published average Hessian trace times its published squared perturbation at k bits. First
and last layer are fixed at 8 bits, and downsample convolutions are tied to the first one of their block. A ratio of 0.5 lies half
way between the usage with all layers at 4 bits and at 8. The published latencies count neither the first nor the last layer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from bitwright.allocation import Allocation, LatencyTable, Problem, allocate, allocation_problem
from bitwright.errors import unknown_name
from bitwright.scheme import Budget, Precision, Scheme
from bitwright.zoo.counts import stored_counts
from bitwright.zoo.names import layer_name, model_name
from bitwright.zoo.registry import configurations, data_text, published_scheme

T4 = "nvidia-t4"
PRECISIONS = (Precision(4, 4), Precision(8, 8))


@dataclass(frozen=True)
class SearchResult:
    """A published mixed scheme beside the search from the published inputs.

    Attributes:
        model: Name of the network.
        scheme: Canonical name.
        published: The published bits.
        found: What our search finds.
        published_loss: Expected loss of the published bits.
        differences: Layers with other bits.
    """

    model: str
    scheme: str
    published: Scheme
    found: Allocation
    published_loss: float
    differences: tuple[str, ...]

    @property
    def same(self) -> bool:
        return not self.differences


@cache
def _inputs() -> dict[str, Any]:
    return dict(json.loads(data_text("ilp_inputs.json")))


def _entry(model: str) -> Any:
    name = model_name(model)
    if name not in _inputs():
        raise unknown_name("network with published sensitivities", name, _inputs())
    return _inputs()[name]


def _by_layer(entry: Any, values: Mapping[str, list[float]]) -> dict[str, dict[Precision, float]]:
    layers = [layer_name(module) for module in entry["modules"]]
    return {
        layer: {precision: values[str(precision.weight_bits)][index] for precision in PRECISIONS}
        for index, layer in enumerate(layers)
    }


def published_losses(model: str) -> dict[str, dict[Precision, float]]:
    """Trace times squared perturbation of every layer but the first and the last.

    Raises:
        UnknownNameError: If none were published: they are those of resnet18 and resnet50.
    """
    entry = _entry(model)
    traces = entry["trace"]
    scaled = {
        bits: [trace * change for trace, change in zip(traces, changes, strict=True)]
        for bits, changes in entry["perturbation"].items()
    }
    return _by_layer(entry, scaled)


def published_latency_table(model: str) -> LatencyTable:
    """The published latencies of a network's layers on an NVIDIA T4, by layer name.

    Raises:
        UnknownNameError: If none were published: they are those of resnet18 and resnet50.
    """
    entry = _entry(model)
    return LatencyTable(
        device=T4,
        engine="TVM, as published with HAWQ-V3",
        batch=8,
        by_layer=_by_layer(entry, entry["latency_ms"]),
        uncounted=(layer_name(_ends(model)[0]), "output"),
        note="the publication states neither unit nor batch beside the figures; taken as ms of its batch of 8 images",
    )


def _ends(model: str) -> tuple[str, str]:
    stem = "quant_init_block_convbn" if model_name(model) == "resnet18" else "quant_init_convbn"
    return stem, "quant_output"


def published_problem(model: str) -> Problem:
    """The search of a published network, from its published inputs and its stored counts."""
    costs = stored_counts(model).layers
    losses = published_losses(model)
    table = published_latency_table(model)
    pinned = {layer: Precision(8, 8) for layer in costs if layer not in losses}
    latency = {
        **{layer: dict(ms) for layer, ms in table.by_layer.items()},
        **{layer: {PRECISIONS[1]: 0.0} for layer in pinned},
    }
    ties = [(layer.replace("identity_conv", "body.conv1"), layer) for layer in costs if "identity_conv" in layer]
    return allocation_problem(losses, costs, choices=PRECISIONS, ties=ties, pinned=pinned, latency_ms=latency)


def mixed_schemes(model: str) -> tuple[str, ...]:
    """The published schemes of a network that a search gave: those with a ratio in their name."""
    return tuple(name for other, name in configurations() if other == model_name(model) and "." in name)


def repeat_search(model: str, scheme: str) -> SearchResult:
    """Solve a published search again.

    Args:
        model: `resnet18` or `resnet50`.
        scheme: For instance `size0.5`.
    """
    problem = published_problem(model)
    published = published_scheme(model, scheme)
    found = allocate(problem, [Budget.parse(published.name)])
    differences = tuple(layer for layer, own in published.layers.items() if found.scheme.layers[layer] != own)
    loss = problem.loss(published.layers)
    return SearchResult(model_name(model), published.name, published, found, loss, differences)
