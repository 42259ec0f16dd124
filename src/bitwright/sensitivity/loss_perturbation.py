# SPDX-License-Identifier: MIT
"""The loss itself, with one layer's weights quantized, or the tensor that it reads: no model of the loss at all."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from bitwright.errors import TrainingError
from bitwright.graph.evaluate import convolve
from bitwright.graph.nodes import Layer
from bitwright.processes import in_turns
from bitwright.progress import Progress, silent
from bitwright.quantizer.activations import quantize_activation
from bitwright.quantizer.weights import Method, quantize_weight, weight_scale
from bitwright.sensitivity.activations import activation_formats
from bitwright.sensitivity.checkpoint import Partial
from bitwright.sensitivity.estimate import Estimate, relative
from bitwright.sensitivity.loss import GraphLoss

Increases = dict[str, dict[int, Estimate]]


def weight_loss_perturbation(
    loss: GraphLoss,
    bits: Iterable[int],
    *,
    scale_method: Method = "mse",
    relative_error: float = 0.05,
    micro_batch: int = 64,
    partial: Partial | None = None,
    progress: Progress = silent,
) -> Increases:
    """The increase of the mean loss when one layer's weights alone are quantized.

    Args:
        loss: The network, images and labels.
        bits: Widths to try.
        scale_method: The scale method of the weights, see `weight_scale`.
        relative_error: Below which the standard error of an increase counts as converged.
        micro_batch: Images in one pass: what bounds the memory.
        partial: Increases measured before, and where to keep them.
        progress: Called for each layer and width, with the largest relative error so far as `relative_error`.

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
        return loss.of_each({**loss.weights, name: moved}, None, micro_batch)

    return _increases(loss, bits, quantized, relative_error, micro_batch, partial, progress)


def activation_loss_perturbation(
    loss: GraphLoss,
    bits: Iterable[int],
    *,
    relative_error: float = 0.05,
    micro_batch: int = 64,
    seed: int = 0,
    partial: Partial | None = None,
    progress: Progress = silent,
) -> Increases:
    """The increase of the mean loss when only the tensor that one layer reads is quantized, for that layer alone.

    Arguments, result and source are those of `weight_loss_perturbation`; the seed draws the values that scales are found on.
    """
    widths = list(bits)
    formats = activation_formats(loss, widths, micro_batch, seed)

    def quantized(name: str, width: int) -> Tensor:

        def linear(node: Layer, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            if node.name == name:
                window, scale = formats[name][width]
                values = quantize_activation(values, scale, window)
            return convolve(node, values, weight, bias)

        return loss.of_each(loss.weights, linear, micro_batch)

    return _increases(loss, widths, quantized, relative_error, micro_batch, partial, progress)


def _increases(
    loss: GraphLoss,
    bits: Iterable[int],
    quantized: Callable[[str, int], Tensor],
    relative_error: float,
    micro_batch: int,
    partial: Partial | None,
    progress: Progress,
) -> Increases:
    partial = partial or Partial()
    widths = list(bits)
    before = loss.of_each(loss.weights, None, micro_batch)
    tasks = [(name, width) for name in loss.weights for width in widths]
    known = {task: row for task in tasks if (row := partial.found(_key(task), 2)) is not None}

    def work(task: tuple[str, int]) -> Tensor:
        change = quantized(*task) - before
        error = float(change.std() / len(change) ** 0.5) if len(change) > 1 else math.inf
        return torch.tensor([float(change.mean()), error], dtype=torch.float64)

    left = [task for task in tasks if task not in known]
    for turn in in_turns(left, work, lambda task: (2,)):
        for task, found in turn:
            if not math.isfinite(found[0]):
                raise TrainingError(
                    f"the loss is {float(found[0])} with layer '{task[0]}' at {task[1]} bits: check weights and images."
                )
            known[task] = found
        partial.keep(lambda: {_key(task): found for task, found in known.items()})
        worst = max(relative(float(error), float(value)) for value, error in known.values())
        progress(len(known), len(tasks), relative_error=worst)
    estimates = {task: _estimate(known[task], len(before), relative_error) for task in tasks}
    return {name: {width: estimates[name, width] for width in widths} for name in loss.weights}


def _key(task: tuple[str, int]) -> str:
    return f"{task[1]}/{task[0]}"


def _estimate(found: Tensor, images: int, target: float) -> Estimate:
    value, error = found.tolist()
    return Estimate(value, error, images, relative(error, value) <= target, error)
