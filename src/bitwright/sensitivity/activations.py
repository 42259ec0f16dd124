# SPDX-License-Identifier: MIT
"""How far quantization moves the tensors that layers read."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bitwright.graph.evaluate import convolve
from bitwright.graph.nodes import Layer
from bitwright.graph.signs import negative_tensors
from bitwright.quantizer.activations import least_squares_scale, quantize_activation
from bitwright.quantizer.formats import TensorFormat
from bitwright.quantizer.windows import least_squares_format
from bitwright.sensitivity.loss import GraphLoss

_SAMPLES = 2**16


def read_samples(loss: GraphLoss, micro_batch: int = 64, seed: int = 0) -> dict[str, Tensor]:
    """Up to 65,536 values of the tensor that each layer reads, of all images alike."""
    found: dict[str, list[Tensor]] = {name: [] for name in loss.weights}
    passes = -(-len(loss.images) // micro_batch)
    generator = torch.Generator().manual_seed(seed)

    def linear(node: Layer, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        flat = values.flatten()
        if len(flat) > _SAMPLES // passes:
            chosen = torch.randint(len(flat), (max(1, _SAMPLES // passes),), generator=generator)
            flat = flat[chosen.to(flat.device)]
        found[node.name].append(flat)
        return convolve(node, values, weight, bias)

    with torch.no_grad():
        for images in torch.split(loss.images, micro_batch):
            loss.outputs(loss.weights, images, linear)
    return {name: torch.cat(parts) for name, parts in found.items()}


def activation_formats(
    loss: GraphLoss, bits: Iterable[int], micro_batch: int = 64, seed: int = 0
) -> dict[str, dict[int, tuple[TensorFormat, float]]]:
    """The format and the scale of least squared error of what each layer reads, at each of several widths.

    As calibration finds them: unsigned where values cannot be negative, elsewhere a window where it is worth it.
    """
    widths, negative = list(bits), negative_tensors(loss.graph)
    return {
        name: {width: _least_squares(values, width, negative[loss.graph[name].inputs[0]]) for width in widths}
        for name, values in read_samples(loss, micro_batch, seed).items()
    }


def _least_squares(values: Tensor, width: int, negative: bool) -> tuple[TensorFormat, float]:
    if negative:
        return least_squares_format(values, width)
    unsigned = TensorFormat.unsigned(width)
    return unsigned, least_squares_scale(values, unsigned)


def activation_perturbations(
    loss: GraphLoss, bits: Iterable[int], micro_batch: int = 64, seed: int = 0
) -> dict[str, dict[int, float]]:
    """||Q(x) - x||_2^2 of the tensor x that each layer reads, for one image, mean over images.

    The scale is one for the whole tensor, of least squared error; both it and the error are found on a sample of values.

    Returns:
        By layer and width.
    """
    widths, negative = list(bits), negative_tensors(loss.graph)
    found: dict[str, dict[int, float]] = {}
    for name, values in read_samples(loss, micro_batch, seed).items():
        source = loss.graph[name].inputs[0]
        elements = torch.Size(loss.graph[source].shape).numel()
        found[name] = {}
        for width in widths:
            window, scale = _least_squares(values, width, negative[source])
            moved = quantize_activation(values, scale, window) - values
            found[name][width] = elements * float(moved.double().square().mean())
    return found
