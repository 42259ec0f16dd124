# SPDX-License-Identifier: MIT
"""What the nodes of one pass through a QuantizedModel share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from bitwright.graph.evaluate import Tensors
from bitwright.graph.nodes import Bounds
from bitwright.quantizer.plan import QuantPlan
from bitwright.training.quantized import Certificate
from bitwright.training.quantizers import ActivationQuantizer, QuantizerSettings, WeightQuantizer


class ActivationRounding(Protocol):
    """Makes integers, or something between, of activations in steps of their scale."""

    def __call__(self, scaled: Tensor, low: int, high: int, bounds: Bounds | None, scale: float) -> Tensor:
        """Round `scaled` to [low, high]; `bounds` is the clamp of the float network."""


@dataclass(frozen=True)
class ForwardContext:
    """The state of a QuantizedModel during one pass.

    Attributes:
        plan: Where the quantizers stand.
        quantizing: How they find their scales.
        parameters: The model's own tensors by name.
        activations: The quantizer of each tensor, by the tensor's name.
        weights: The quantizer of each layer's weights, by the layer's name.
        certificates: The constants that lowering proved, by node.
        training: Whether gradients are wanted.
        norm_momentum: Weight of this batch in the running statistics of batch norm, or None where it stays folded with them.
        round_activations: Replaces the rounding of activations to the nearest, or None.
    """

    plan: QuantPlan
    quantizing: QuantizerSettings
    parameters: Tensors
    activations: Mapping[str, ActivationQuantizer]
    weights: Mapping[str, WeightQuantizer]
    certificates: Mapping[str, Certificate]
    training: bool
    norm_momentum: float | None
    round_activations: ActivationRounding | None = None
