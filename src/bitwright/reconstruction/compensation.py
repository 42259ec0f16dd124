# SPDX-License-Identifier: MIT
"""Rounding errors that compensate each other: weights take up what those that were rounded before them lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from operator import add

import torch
from torch import Tensor

from bitwright.graph.autocast import full_precision
from bitwright.graph.evaluate import Tensors
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Conv2d, Layer
from bitwright.progress import Progress, silent
from bitwright.reconstruction.bias_correction import correct_bias
from bitwright.reconstruction.calibration import begun
from bitwright.reconstruction.compensated_weights import compensated, damped, refitted
from bitwright.reconstruction.coordinate_descent import descended
from bitwright.reconstruction.damping import cross_validated
from bitwright.reconstruction.scale_search import searched
from bitwright.reconstruction.second_moments import SecondMoments, joined, parted, second_moments
from bitwright.reconstruction.sharing import shared
from bitwright.reconstruction.side_by_side import side_by_side
from bitwright.training.folding import sign_folded_weight
from bitwright.training.model import QuantizedModel
from bitwright.training.norm_correction import moved_statistics
from bitwright.training.quantized import Quantized
from bitwright.training.quantizers import Ranges

BELOW_HALF = 0.49
"""How far a weight may be from its integer, in steps of its scale, which is the nearest then."""


@torch.no_grad()
@full_precision()
def compensate_rounding(
    model: QuantizedModel, images: Tensor, *, reference: Graph | None = None, progress: Progress = silent
) -> QuantizedModel:
    """Choose weights anew, layer by layer, so that their nearest integers give the float network's results on these images.

    A layer reads what the integers before it make. First its weights become those that give the float network's results from
    that, in the least-squares sense; then they are rounded one after another, what each loses is taken up by those that are
    left, and all are looked at again. Channels of few weights get the scales by which this loses least. How closely all of it
    follows the images is found by cross-validation between halves of them, which should be alike, and not of neighbours. The
    layer's batch norm is corrected by what remains, or its offset. Each weight stays as close to its least-squares value as its
    integer allows, so that a descent begins there, and may still decide otherwise. Formats stay.

    This is for a model whose weights are those of the float network that it was made from: what a training of the integers
    learned would be lost.

    Args:
        model: A calibrated model.
        images: float32, shape (count, channels, height, width); some hundreds, without labels.
        reference: The float network, where it is not the one that `model` was made from.
        progress: Told about every layer.

    Returns:
        `model`, in evaluation mode.

    Raises:
        DataError: If there are no images, or they do not fit the network.
        FileFormatError: If `reference` is another network.
        TrainingError: If the model is not calibrated.

    Source:
        Frantar et al. 2022, GPTQ, arXiv:2210.17323, section 3; Li et al. 2025, GPTAQ, arXiv:2504.02692 (the float network's
        inputs).
    """
    graph = model.plan.graph
    images, floats = begun(model, images, reference, "compensation of rounding")
    layers, common = list(graph.layers), shared(graph)
    parameters, context = model.parameters_by_name(), model.context()
    generator = torch.Generator().manual_seed(0)

    def visit(node: Layer, real: Sequence[Tensor], made: Iterable[Quantized]) -> None:
        mean = node.bias if node.norm is None else node.norm.mean  # what takes care of the means of its results
        corrected = mean is not None and mean not in common
        if node.weight not in common:
            kernel = parameters[node.weight].shape[1:]
            moments = second_moments(node, kernel, real, made, centred=corrected, generator=generator)
            _compensate(model, node, floats, moments)
        if corrected and node.norm is not None:
            parts = (moved_statistics(node, *pair, floats, context) for pair in zip(real, made, strict=True))
            reduce(add, parts).put(node.norm, parameters, floats)
        elif corrected:
            correct_bias(node, real, made, floats, context)
        progress(layers.index(node.name) + 1, len(layers))

    side_by_side(model, images, floats, visit)
    return model


def _compensate(model: QuantizedModel, node: Layer, floats: Tensors, measured: Sequence[SecondMoments]) -> None:
    """Replace the weights of a layer, and their scales, by the moments of all images, and of each half of them."""
    moments, *halves = measured
    parameters, quantizer = model.parameters_by_name(), model.weight_quantizer(node.name)
    weight, groups = parameters[node.weight], node.groups if isinstance(node, Conv2d) else 1
    # The integers are those of the sign-folded weight; a weight of ones has the signs alone.
    signs = sign_folded_weight(node, {**parameters, node.weight: torch.ones_like(weight)})
    grouped = (floats[node.weight] * signs).reshape(groups, -1, weight[0].numel()).double()
    parts = len(moments.made) // groups
    real = parted(grouped, parts)
    scale = quantizer.current_scale().double().reshape(*grouped.shape[:2], 1).repeat_interleave(parts, 0)
    damping = cross_validated(real, scale, halves, quantizer.format)
    wanted = refitted(real, moments, damping)
    if quantizer.ranges is Ranges.LEARNED and quantizer.per_channel and parts == 1:
        found = searched(wanted, scale, moments.made, quantizer.format, damping)
        quantizer.scale.copy_(found.reshape(quantizer.scale.shape))
        scale = quantizer.current_scale().double().reshape(scale.shape)
    wanted = wanted / scale
    integers = compensated(wanted, moments.made, quantizer.format, damping)
    integers = descended(integers, wanted, damped(moments.made, damping), quantizer.format)
    close = integers + (wanted - integers).clamp(-BELOW_HALF, BELOW_HALF)
    weight.copy_(joined(close * scale, groups, grouped.shape[2]).reshape(weight.shape) * signs)
