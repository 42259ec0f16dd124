# SPDX-License-Identifier: MIT
"""Batch norm of a calibrated network: the statistics of the training, corrected by what quantization does to them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bitwright.data.given import each_images
from bitwright.graph.autocast import full_precision
from bitwright.graph.evaluate import Tensors, clamp, convolve, float_result, norm_affine
from bitwright.graph.images import float_images
from bitwright.graph.nodes import Layer, Norm
from bitwright.training.context import ForwardContext
from bitwright.training.fake_quantize import fake_quantize
from bitwright.training.folding import sign_folded_weight
from bitwright.training.model import QuantizedModel
from bitwright.training.quantized import Quantized

LARGEST_RATIO = 4.0
"""Of variances, either way: a channel that is all but constant on these images says nothing of how it varies on others."""


@torch.no_grad()
@full_precision()
def correct_norm(model: QuantizedModel, batches: Iterable[Any]) -> int:
    """Correct the running statistics of batch norm by how the quantized network's differ from the float network's.

    Both networks see the same images. The mean of a channel before its batch norm moves by as much as quantization moves it on
    them, and the variance by the same ratio. So the statistics of the training remain where quantization changes nothing,
    whatever the images show, and where they are like those of the training, they become those of the quantized network. Within a
    batch, each layer is behind those that this batch has corrected already; what is kept is the mean over all batches.

    This is for a model whose weights are those of the float network that it was made from. After a training, whose weights have
    moved, `QuantizedModel.settle_norm` gives batch norm the statistics of images of that training.

    Args:
        model: A calibrated model.
        batches: Images on any device, each of shape (batch, channels, height, width); or a DataLoader, whose labels are left
            aside.

    Returns:
        How many images there were.

    Raises:
        DataError: If images do not fit the network.
    """
    model.eval()
    model.certify({})
    graph, parameters = model.plan.graph, model.parameters_by_name()
    device = next(model.parameters()).device
    floats = {name: tensor.to(device) for name, tensor in graph.parameters.items()}
    moved: dict[Norm, MovedStatistics] = {}
    seen = 0
    for images in each_images(batches):
        given = float_images(images.to(device), graph.input_shape, graph.model)
        for norm, found in _moved_by_batch(model, given, floats):
            moved[norm] = moved[norm] + found if norm in moved else found
        seen += len(given)
    for norm, found in moved.items():
        found.put(norm, parameters, floats)
    return seen


@dataclass(frozen=True)
class MovedStatistics:
    """How quantization moves the statistics of the channels before a batch norm, over so many images.

    Attributes:
        images: How many.
        shift: Of the mean, times the number of images, shape (channels,).
        real: The variance in the float network, times the number of images.
        made: The same in the quantized network.
    """

    images: int
    shift: Tensor
    real: Tensor
    made: Tensor

    @staticmethod
    def between(real: Tensor, made: Tensor) -> MovedStatistics:
        """What the float network and the quantized one make of the same images: shape (images, channels, ...)."""
        axes, count = [axis for axis in range(real.dim()) if axis != 1], len(real)
        (made_variance, made_mean), (real_variance, real_mean) = (
            torch.var_mean(values, axes, correction=0) for values in (made, real)
        )
        return MovedStatistics(count, (made_mean - real_mean) * count, real_variance * count, made_variance * count)

    def __add__(self, other: MovedStatistics) -> MovedStatistics:
        return MovedStatistics(
            self.images + other.images, self.shift + other.shift, self.real + other.real, self.made + other.made
        )

    def put(self, norm: Norm, parameters: Tensors, floats: Tensors) -> None:
        """Write the statistics of the float network, moved likewise."""
        # With eps, by which the norm divides, too: a dead channel stays what it is.
        ratio = (self.made / self.images + norm.eps) / (self.real / self.images + norm.eps)
        ratio = ratio.clamp(1 / LARGEST_RATIO, LARGEST_RATIO)
        parameters[norm.mean].copy_(floats[norm.mean] + self.shift / self.images)
        parameters[norm.variance].copy_(((floats[norm.variance] + norm.eps) * ratio - norm.eps).clamp_min(0))


def moved_statistics(
    node: Layer, real: Tensor, made: Quantized, floats: Tensors, context: ForwardContext
) -> MovedStatistics:
    """How quantization moves what a layer gives its batch norm.

    Args:
        node: A layer with batch norm.
        real: What it reads in the float network, shape (images, ...).
        made: What it reads in the quantized network.
        floats: Tensors of the float network by name.
        context: The context of the quantized network.
    """
    return MovedStatistics.between(convolve(node, real, floats[node.weight], None), _before_norm(node, made, context))


def _moved_by_batch(model: QuantizedModel, images: Tensor, floats: Tensors) -> Iterator[tuple[Norm, MovedStatistics]]:
    """How the statistics of each norm move in one batch; the model has those of this batch alone afterwards."""
    graph, context = model.plan.graph, model.context()
    last_use = {name: step for step, node in enumerate(graph) for name in node.inputs}
    real: dict[str, Tensor] = {}
    made: dict[str, Quantized] = {}
    for step, node in enumerate(graph):
        sources = [real[name] for name in node.inputs] or [images]
        inputs = [made[name] for name in node.inputs] or [Quantized(images, images.new_ones(()))]
        if isinstance(node, Layer) and node.norm is not None:
            sums = convolve(node, sources[0], floats[node.weight], None)
            found = MovedStatistics.between(sums, _before_norm(node, inputs[0], context))
            found.put(node.norm, context.parameters, floats)
            yield node.norm, found
            real[node.name] = _normalised(node, sums, floats)
        else:
            real[node.name] = float_result(node, sources, floats)
        made[node.name] = fake_quantize(node, inputs, context)
        for name in node.inputs:
            if last_use[name] == step:
                real.pop(name, None)
                made.pop(name, None)


def _before_norm(node: Layer, source: Quantized, context: ForwardContext) -> Tensor:
    """What the integers of a layer are worth before its bias and its norm."""
    weight = context.parameters[node.weight]
    # Batch norm's signs are in the integers; a weight of ones has them, too.
    signs = sign_folded_weight(node, {**context.parameters, node.weight: torch.ones_like(weight)})
    integers, scale = context.weights[node.name](sign_folded_weight(node, context.parameters))
    columns = (-1, *[1] * (len(node.shape) - 1))
    sums = convolve(node, source.values, integers * signs, None)
    real: Tensor = sums * (source.scale * scale).reshape(columns)
    return real


def _normalised(node: Layer, sums: Tensor, floats: Tensors) -> Tensor:
    """A layer's result in float, from what it sums."""
    assert node.norm is not None
    gain, offset = norm_affine(node.norm, floats)
    if node.bias is not None:
        offset = offset + floats[node.bias] * gain
    columns = (-1, *[1] * (len(node.shape) - 1))
    return clamp(torch.addcmul(offset.reshape(columns), sums, gain.reshape(columns)), node.bounds)
