# SPDX-License-Identifier: MIT
"""Bias correction: what rounding does to the mean of each channel is taken back by the channel's offset."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from bitwright.graph.autocast import full_precision
from bitwright.graph.evaluate import Tensors, convolve, folded_weight
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Layer
from bitwright.reconstruction.calibration import begun
from bitwright.reconstruction.sharing import shared
from bitwright.reconstruction.side_by_side import side_by_side
from bitwright.training.context import ForwardContext
from bitwright.training.folding import accumulator_unit, bias_integers, folded_gain_and_bias, sign_folded_weight
from bitwright.training.model import QuantizedModel
from bitwright.training.quantized import Quantized


@torch.no_grad()
@full_precision()
def correct_biases(model: QuantizedModel, images: Tensor, *, reference: Graph | None = None) -> QuantizedModel:
    """Move the offset of every channel so that its mean over images, before the clamp, is that of the float network.

    Layers are corrected in order, each behind those that are corrected already. A batch norm that was corrected
    (`correct_norm`) or settled has done this for its layer; what is left to do is in layers without one, which most published
    mobile networks and detectors end with. Offsets that several layers share stay, and so do layers without any.

    Args:
        model: A calibrated model.
        images: float32, shape (count, channels, height, width); some hundreds, without labels.
        reference: The float network, where it is not the one that `model` was made from.

    Returns:
        `model`, in evaluation mode.

    Raises:
        DataError: If there are no images, or they do not fit the network.
        FileFormatError: If `reference` is another network.
        TrainingError: If the model is not calibrated.

    Source:
        Nagel et al. 2019, arXiv:1906.04721, section 4.2 and appendix D (the empirical correction).
    """
    images, floats = begun(model, images, reference, "correction of biases")
    context, common = model.context(), shared(model.plan.graph)

    def visit(node: Layer, real: Sequence[Tensor], made: Iterable[Quantized]) -> None:
        if _offset(node) not in common:
            correct_bias(node, real, made, floats, context)

    side_by_side(model, images, floats, visit)
    return model


def correct_bias(
    node: Layer, real: Sequence[Tensor], made: Iterable[Quantized], floats: Tensors, context: ForwardContext
) -> None:
    """Add to a layer's offset, if it has one, what the quantized network's means lack.

    Args:
        node: The layer.
        real: What it reads in the float network, a batch each.
        made: What it reads in the quantized network.
        floats: Tensors of the float network by name.
        context: The context of the quantized network.
    """
    name = _offset(node)
    if name is None:
        return
    weight, bias = folded_weight(node, floats)
    wanted = _means(convolve(node, source, weight, bias) for source in real)
    context.parameters[name].add_(wanted - _means(_before_clamp(node, source, context) for source in made))


def _offset(node: Layer) -> str | None:
    """The tensor that is added to a layer's channels: the bias of its batch norm, or its own."""
    return node.norm.bias if node.norm is not None else node.bias


def _before_clamp(node: Layer, source: Quantized, context: ForwardContext) -> Tensor:
    """The real outputs of a layer's integers, before they are clamped and rounded."""
    integers, weight_scale = context.weights[node.name](sign_folded_weight(node, context.parameters))
    gain, bias = folded_gain_and_bias(node, context.parameters)
    unit, integers = accumulator_unit(source.scale, weight_scale, gain, bias, integers)
    offsets = None if bias is None else bias_integers(bias, unit, context.quantizing.bias_limit)
    sums = convolve(node, source.values, integers, offsets)
    return sums * unit.reshape(-1, *[1] * (len(node.shape) - 1))


def _means(parts: Iterable[Tensor]) -> Tensor:
    """Of each channel, over all images and places: shape (channels,)."""
    sums = [
        (part.double().sum([axis for axis in range(part.dim()) if axis != 1]), part.numel() // part.shape[1])
        for part in parts
    ]
    return (torch.stack([found for found, _ in sums]).sum(0) / sum(count for _, count in sums)).float()
