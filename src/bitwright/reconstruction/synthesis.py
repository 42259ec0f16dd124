# SPDX-License-Identifier: MIT
"""Images made from a network's batch norm, for who has none: their statistics in every layer are those of its training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bitwright.errors import DataError
from bitwright.graph.autocast import full_precision
from bitwright.graph.evaluate import clamp, convolve, float_result, norm_affine
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Input, Layer
from bitwright.progress import Progress, silent

BATCH = 64
"""Images made at a time: statistics of fewer are not those of many."""
RATE = 0.1


@full_precision()
def synthesised(
    graph: Graph,
    count: int,
    *,
    steps: int = 200,
    seed: int = 0,
    made: Tensor | None = None,
    keep: Callable[[Tensor], object] | None = None,
    progress: Progress = silent,
) -> Tensor:
    """Images for which every batch norm sees the mean and the deviation that it remembers.

    They begin as noise, and Adam lowers `sum |mean - mean'|^2 + |std - std'|^2` over all batch norms, and over the pixels of
    each channel, which normalisation has brought to mean 0 and deviation 1.

    Args:
        graph: A network with batch norm.
        count: How many.
        steps: Of gradient descent, for each part of 64.
        seed: Of the noise.
        made: The first of them, where an earlier run with the same arguments kept some.
        keep: Told, after each part, all images so far.
        progress: Told about every step, with the loss over that of the noise as `relative_loss`.

    Returns:
        float32, shape (count, channels, height, width), on the processor.

    Raises:
        DataError: If none are asked for, or the network has no batch norm: nothing is known of its images then.

    Source:
        Cai et al. 2020, ZeroQ, arXiv:2001.00281, equation 3.
    """
    if count < 1 or steps < 1:
        raise DataError(f"expected at least one image and one step, got {count} and {steps}.")
    require_batch_norm(graph)
    generator = torch.Generator().manual_seed(seed)
    parameters = {name: tensor.detach() for name, tensor in graph.parameters.items()}
    done = torch.empty(0, *graph.input_shape) if made is None else made[:count]
    parts = [min(BATCH, count - begin) for begin in range(0, count, BATCH)]
    for number, size in enumerate(parts):
        noise = torch.randn(BATCH, *graph.input_shape, generator=generator)
        if len(done) >= number * BATCH + size:
            continue
        images = torch.nn.Parameter(noise.to(next(iter(parameters.values())).device))
        optimizer = torch.optim.Adam([images], lr=RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        begun: float | None = None
        for step in range(steps):
            loss = statistics_distance(graph, images, parameters)
            value = float(loss.detach())
            begun = begun or value or 1.0
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            progress(number * steps + step + 1, len(parts) * steps, relative_loss=value / begun)
        done = torch.cat([done[: number * BATCH], images.detach()[:size].cpu()])
        if keep is not None:
            keep(done)
    return done


def require_batch_norm(graph: Graph) -> None:
    """Refuse a network that remembers nothing of its images.

    Raises:
        DataError: If it has no batch norm.
    """
    if not any(layer.norm is not None for layer in graph.layers.values()):
        raise DataError(
            f"{graph.model} has no batch norm, so that nothing is known of the images it was trained on: give some of those."
        )


def statistics_distance(graph: Graph, images: Tensor, parameters: dict[str, Tensor]) -> Tensor:
    """How far the statistics of images are from those that batch norm remembers, shape (): a mean over all channels.

    Differences are relative to each channel's own deviation, so that layers of large outputs do not drown the others.
    """
    ones = images.new_ones(images.shape[1])
    distances = [_distance(images, torch.zeros_like(ones), ones)]
    last_use = {name: step for step, node in enumerate(graph) for name in node.inputs}
    values: dict[str, Tensor] = {}
    for step, node in enumerate(graph):
        if isinstance(node, Input):
            values[node.name] = images
            continue
        inputs = [values[name] for name in node.inputs]
        if isinstance(node, Layer) and node.norm is not None:
            bias = None if node.bias is None else parameters[node.bias]
            sums = convolve(node, inputs[0], parameters[node.weight], bias)
            distances.append(
                _distance(sums, parameters[node.norm.mean], parameters[node.norm.variance] + node.norm.eps)
            )
            gain, offset = norm_affine(node.norm, parameters)
            shape = (-1, *[1] * (sums.dim() - 2))
            values[node.name] = clamp(sums * gain.reshape(shape) + offset.reshape(shape), node.bounds)
        else:
            values[node.name] = float_result(node, inputs, parameters)
        for name in node.inputs:
            if last_use[name] == step:
                values.pop(name, None)
    return torch.cat(distances).mean()


def _distance(values: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    """Squared differences of mean and deviation of each channel, shape (channels,)."""
    axes = [axis for axis in range(values.dim()) if axis != 1]
    found_variance, found_mean = torch.var_mean(values, axes, correction=0)
    deviation = variance.sqrt()
    return ((found_mean - mean) / deviation).square() + (
        found_variance.clamp_min(1e-12).sqrt() / deviation - 1
    ).square()
