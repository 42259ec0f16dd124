# SPDX-License-Identifier: MIT
"""How far quantization moves the tensors that layers read."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from bitwright.graph.evaluate import convolve
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Layer
from bitwright.graph.signs import negative_tensors
from bitwright.quantizer.activations import least_squares_scale, quantize_activation
from bitwright.quantizer.formats import TensorFormat
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
            loss.logits(loss.weights, images, linear)
    return {name: torch.cat(parts) for name, parts in found.items()}


def activation_scales(
    loss: GraphLoss, bits: Iterable[int], micro_batch: int = 64, seed: int = 0
) -> dict[str, dict[int, float]]:
    """The scale of least squared error of what each layer reads, at each of several widths."""
    widths, formats = list(bits), read_formats(loss.graph)
    return {
        name: {width: least_squares_scale(values, formats(name, width)) for width in widths}
        for name, values in read_samples(loss, micro_batch, seed).items()
    }


def read_formats(graph: Graph) -> Callable[[str, int], TensorFormat]:
    """The format of what a layer reads, by the layer's name and a width: symmetric where values can be negative."""
    negative = negative_tensors(graph)
    return lambda layer, width: TensorFormat.of(width, negative=negative[graph[layer].inputs[0]])


def activation_perturbations(
    loss: GraphLoss, bits: Iterable[int], micro_batch: int = 64, seed: int = 0
) -> dict[str, dict[int, float]]:
    """||Q(x) - x||_2^2 of the tensor x that each layer reads, for one image, mean over images.

    The scale is one for the whole tensor, of least squared error; both it and the error are found on a sample of values.

    Returns:
        By layer and width.
    """
    widths, formats = list(bits), read_formats(loss.graph)
    found: dict[str, dict[int, float]] = {}
    for name, values in read_samples(loss, micro_batch, seed).items():
        source = loss.graph[name].inputs[0]
        elements = torch.Size(loss.graph[source].shape).numel()
        found[name] = {}
        for width in widths:
            window = formats(name, width)
            moved = quantize_activation(values, least_squares_scale(values, window), window) - values
            found[name][width] = elements * float(moved.double().square().mean())
    return found
