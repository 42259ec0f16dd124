# SPDX-License-Identifier: MIT
"""Bias correction: what rounding does to the mean of each channel is taken back by the channel's offset."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.graph.autocast import full_precision
from bitwright.graph.evaluate import clamp, convolve, float_result, folded_weight
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import Layer
from bitwright.reconstruction.calibration import begun
from bitwright.reconstruction.sharing import shared
from bitwright.training.context import ForwardContext
from bitwright.training.fake_quantize import fake_quantize
from bitwright.training.folding import accumulator_unit, bias_integers, folded_gain_and_bias, sign_folded_weight
from bitwright.training.model import QuantizedModel
from bitwright.training.quantized import Quantized

BATCH = 128


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
    graph = model.plan.graph
    images, floats = begun(model, images, reference, "correction of biases")
    parameters, context, common = model.parameters_by_name(), model.context(), shared(graph)
    last_use = {name: step for step, node in enumerate(graph) for name in node.inputs}
    real: dict[str, list[Tensor]] = {}
    made: dict[str, list[Quantized]] = {}
    parts = torch.split(images, BATCH)
    for step, node in enumerate(graph):
        sources = [[real[name][part] for name in node.inputs] or [images] for part, images in enumerate(parts)]
        inputs = [
            [made[name][part] for name in node.inputs] or [Quantized(images, images.new_ones(()))]
            for part, images in enumerate(parts)
        ]
        if isinstance(node, Layer):
            weight, bias = folded_weight(node, floats)
            sums = [convolve(node, source[0], weight, bias) for source in sources]
            name = node.norm.bias if node.norm is not None else node.bias
            if name is not None and name not in common:
                lost = _means(sums) - _means([_before_clamp(node, source[0], context) for source in inputs])
                parameters[name].add_(lost)
            real[node.name] = [clamp(values, node.bounds) for values in sums]
        else:
            real[node.name] = [float_result(node, source, floats) for source in sources]
        made[node.name] = [fake_quantize(node, source, context) for source in inputs]
        for name in node.inputs:
            if last_use[name] == step:
                real.pop(name, None)
                made.pop(name, None)
    return model


def _before_clamp(node: Layer, source: Quantized, context: ForwardContext) -> Tensor:
    """The real outputs of a layer's integers, before they are clamped and rounded."""
    integers, weight_scale = context.weights[node.name](sign_folded_weight(node, context.parameters))
    gain, bias = folded_gain_and_bias(node, context.parameters)
    unit, integers = accumulator_unit(source.scale, weight_scale, gain, bias, integers)
    offsets = None if bias is None else bias_integers(bias, unit, context.quantizing.bias_limit)
    sums = convolve(node, source.values, integers, offsets)
    return sums * unit.reshape(-1, *[1] * (len(node.shape) - 1))


def _means(parts: list[Tensor]) -> Tensor:
    """Of each channel, over all images and places: shape (channels,)."""
    axes = [axis for axis in range(parts[0].dim()) if axis != 1]
    count = sum(part.numel() // part.shape[1] for part in parts)
    return torch.stack([part.double().sum(axes) for part in parts]).sum(0).div(count).float()
