# SPDX-License-Identifier: MIT
"""How many weights and multiply-accumulates the layers of the zoo's networks have, as they were counted once."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from bitwright.cost import LayerCost, ModelCost, float_cost_of, scheme_cost
from bitwright.errors import unknown_name
from bitwright.scheme import Scheme
from bitwright.zoo.names import model_name
from bitwright.zoo.registry import configurations, data_text, networks


@dataclass(frozen=True)
class Counts:
    """The counts of a network, for one image of the size of `image_size_of`.

    Attributes:
        parameters: Trainable ones, in all.
        layers: By layer name, in execution order.
    """

    parameters: int
    layers: Mapping[str, LayerCost]

    def of(self, scheme: Scheme | None) -> ModelCost:
        """The cost of the network under a scheme; None is float32."""
        return float_cost_of(self.parameters, self.layers) if scheme is None else scheme_cost(self.layers, scheme)


def all_models() -> tuple[str, ...]:
    """The networks of the table, then those that only have published bits."""
    return tuple(dict.fromkeys([*networks(), *(model for model, _ in configurations())]))


def image_size_of(model: str) -> int:
    """The image side that a network is counted at: the table's, and 224 for networks without a row, 299 for Inception."""
    known = networks()
    if model in known:
        return known[model].image_size
    return 299 if model.startswith("inception") else 224


@cache
def stored_figures() -> Mapping[str, Any]:
    """What `regression.write_figures` wrote: counts and figures of every network, by its name."""
    return dict(json.loads(data_text("counts.json")))


def stored_counts(model: str) -> Counts:
    """The counts of a network, as they were written when it was captured last; `zoo check --recompute` counts again.

    Raises:
        UnknownNameError: If it is no network of the zoo.
    """
    name = model_name(model)
    if name not in stored_figures():
        raise unknown_name("network of the zoo", name, stored_figures())
    entry = stored_figures()[name]
    layers = {layer: LayerCost(layer, *counts) for layer, counts in entry["layers"].items()}
    return Counts(entry["parameters"], layers)
