# SPDX-License-Identifier: MIT
"""Counting a network of the zoo anew, from its captured graph."""

from __future__ import annotations

from functools import cache

from bitwright.graph.capture import capture
from bitwright.graph.cost import layer_costs, parameter_count
from bitwright.graph.sources import load_model
from bitwright.zoo.counts import Counts, image_size_of


@cache
def count_network(model: str) -> Counts:
    """The counts of a network, from its captured graph; some seconds the first time.

    Args:
        model: For instance `resnet18`.
    """
    side = image_size_of(model)
    graph = capture(load_model(f"pytorchcv:{model}"), (3, side, side), name=f"pytorchcv:{model}")
    return Counts(parameter_count(graph), layer_costs(graph))
