# SPDX-License-Identifier: MIT
"""How far quantization moves the tensors that layers read."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bitwright.graph.execute import convolve
from bitwright.graph.nodes import Layer
from bitwright.graph.signs import negative_tensors
from bitwright.sensitivity.loss import GraphLoss

_SAMPLES = 2**16
_FRACTIONS = 100


def activation_range(bit_width: int, signed: bool) -> tuple[int, int]:
    """Smallest and largest integer of an activation.

    >>> activation_range(4, signed=True), activation_range(4, signed=False)
    ((-8, 7), (0, 15))
    """
    return (-(1 << (bit_width - 1)), (1 << (bit_width - 1)) - 1) if signed else (0, (1 << bit_width) - 1)


def activation_scale(values: Tensor, bit_width: int, signed: bool) -> float:
    """The scale of least squared error, of 100 between a hundredth of the full range and itself; 1 for zeros alone."""
    low, high = activation_range(bit_width, signed)
    full = max(float(values.max()) / high, float(values.min()) / low if signed else 0.0)
    if full <= 0:
        return 1.0
    scales = full * torch.linspace(1 / _FRACTIONS, 1, _FRACTIONS, device=values.device, dtype=values.dtype)
    errors = [
        (quantize_activation(values, some.reshape(-1, 1), bit_width, signed) - values).square_().mean(1)
        for some in torch.split(scales, 10)
    ]
    return float(scales[torch.cat(errors).argmin()])


def quantize_activation(values: Tensor, scale: Tensor | float, bit_width: int, signed: bool) -> Tensor:
    """`values` rounded to multiples of `scale`, in range."""
    low, high = activation_range(bit_width, signed)
    return (values / scale).round_().clamp_(low, high).mul_(scale)


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
    """`activation_scale` of what each layer reads, at each of several widths."""
    widths, negative = list(bits), negative_tensors(loss.graph)
    return {
        name: {width: activation_scale(values, width, negative[loss.graph[name].inputs[0]]) for width in widths}
        for name, values in read_samples(loss, micro_batch, seed).items()
    }


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
            scale = activation_scale(values, width, negative[source])
            moved = quantize_activation(values, scale, width, negative[source]) - values
            found[name][width] = elements * float(moved.double().square().mean())
    return found
