# SPDX-License-Identifier: MIT
"""The loss itself, with one layer's weights quantized, or the tensor that it reads: no model of the loss at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.errors import TrainingError
from bitwright.graph.execute import Linearity, convolve
from bitwright.graph.nodes import Layer
from bitwright.graph.signs import negative_tensors
from bitwright.progress import Progress, silent
from bitwright.sensitivity.activations import activation_scales, quantize_activation
from bitwright.sensitivity.estimate import Estimate, relative
from bitwright.sensitivity.loss import GraphLoss
from bitwright.sensitivity.weight_scale import Method, quantize_weight, weight_scale

Increases = dict[str, dict[int, Estimate]]


def weight_loss_perturbation(
    loss: GraphLoss,
    bits: Iterable[int],
    *,
    scale_method: Method = "mse",
    relative_error: float = 0.05,
    micro_batch: int = 64,
    progress: Progress = silent,
) -> Increases:
    """The increase of the mean loss when one layer's weights alone are quantized.

    Args:
        loss: The network, images and labels.
        bits: Widths to try.
        scale_method: Of the weights, see `weight_scale`.
        relative_error: Below which the standard error of an increase counts as converged.
        micro_batch: Images in one pass: what bounds the memory.
        progress: Called for each layer and width.

    Returns:
        By layer and width. The standard error is that of the images, whose losses are compared one by one; `samples` is
        their number.

    Raises:
        TrainingError: If a loss is not finite.

    Source:
        Nagel et al. 2021, arXiv:2106.08295, section 3.6 (per-layer sensitivity analysis).
    """

    def quantized(name: str, width: int) -> Tensor:
        weight = loss.weights[name].detach()
        scale = weight_scale(weight, width, scale_method)
        moved = quantize_weight(weight, scale, width) * scale.reshape(-1, *[1] * (weight.dim() - 1))
        return _losses(loss, {**loss.weights, name: moved}, None, micro_batch)

    return _increases(loss, bits, quantized, relative_error, micro_batch, progress)


def activation_loss_perturbation(
    loss: GraphLoss,
    bits: Iterable[int],
    *,
    relative_error: float = 0.05,
    micro_batch: int = 64,
    seed: int = 0,
    progress: Progress = silent,
) -> Increases:
    """The increase of the mean loss when only the tensor that one layer reads is quantized, for that layer alone.

    Arguments, result and source are those of `weight_loss_perturbation`; the seed draws the values that scales are found on.
    """
    widths = list(bits)
    scales = activation_scales(loss, widths, micro_batch, seed)
    negative = negative_tensors(loss.graph)

    def quantized(name: str, width: int) -> Tensor:
        signed = negative[loss.graph[name].inputs[0]]

        def linear(node: Layer, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            if node.name == name:
                values = quantize_activation(values, scales[name][width], width, signed)
            return convolve(node, values, weight, bias)

        return _losses(loss, loss.weights, linear, micro_batch)

    return _increases(loss, widths, quantized, relative_error, micro_batch, progress)


def _increases(
    loss: GraphLoss,
    bits: Iterable[int],
    quantized: Callable[[str, int], Tensor],
    relative_error: float,
    micro_batch: int,
    progress: Progress,
) -> Increases:
    widths = list(bits)
    before = _losses(loss, loss.weights, None, micro_batch)
    found: Increases = {}
    for index, name in enumerate(loss.weights):
        found[name] = {}
        for width in widths:
            change = quantized(name, width) - before
            value = float(change.mean())
            error = float(change.std() / len(change) ** 0.5) if len(change) > 1 else math.inf
            if not math.isfinite(value):
                raise TrainingError(
                    f"the loss is {value} with layer '{name}' at {width} bits: check weights and images."
                )
            converged = relative(error, value) <= relative_error
            found[name][width] = Estimate(value, error, len(change), converged, error)
            progress(index * len(widths) + len(found[name]), len(loss.weights) * len(widths), increase=value)
    return found


@torch.no_grad()
def _losses(loss: GraphLoss, weights: Mapping[str, Tensor], linear: Linearity | None, micro_batch: int) -> Tensor:
    """The loss of each image, in float64."""
    parts = zip(torch.split(loss.images, micro_batch), torch.split(loss.labels, micro_batch), strict=True)
    return torch.cat(
        [
            F.cross_entropy(loss.logits(weights, images, linear).double(), labels, reduction="none")
            for images, labels in parts
        ]
    )
