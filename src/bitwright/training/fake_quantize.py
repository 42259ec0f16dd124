# SPDX-License-Identifier: MIT
"""What each node computes in a QuantizedModel: the integer operation, with straight-through gradients.

Every requantization is `clamp(round(accumulator * ratio))`, in float32. In evaluation mode with certificates, the ratio is a
proved multiplier, and the result is the integer model's, bit for bit.
"""

from __future__ import annotations

import math
from functools import singledispatch
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.errors import TrainingError
from bitwright.graph.evaluate import Tensors, convolve, select
from bitwright.graph.nodes import (
    Add,
    AvgPool2d,
    Clamp,
    Concat,
    Conv2d,
    Dropout,
    Input,
    Linear,
    Node,
    Requantize,
    Selection,
)
from bitwright.quantizer.formats import clamp_limits
from bitwright.quantizer.refusals import FLOAT32_EXACT
from bitwright.training.folding import (
    accumulator_unit,
    bias_integers,
    folded_gain_and_bias,
    oriented_weight,
    still_channels,
)
from bitwright.training.norm import normalise_by_batch
from bitwright.training.quantized import Certificate, Quantized
from bitwright.training.straight_through import carry_ratio, clamp_round, scale_by, weighted_sum

if TYPE_CHECKING:
    from bitwright.training.model import QuantizedModel


@singledispatch
def fake_quantize(node: Node, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    """The integers of one tensor.

    Args:
        node: The operation.
        inputs: What it reads, in order.
        model: Gives quantizers and certificates.
        parameters: The float model's tensors by name.
    """
    raise NotImplementedError(f"no quantized form of {type(node).__name__}")


def _finish(node: Node, scaled: Tensor, scale: Tensor, model: QuantizedModel) -> Quantized:
    """Round `scaled`, in steps of `scale`, to the format of the node's tensor."""
    certificate = model.certificates.get(node.name)
    window = certificate.format if certificate is not None else None
    window = window or model.activation_quantizer(node.name).format
    bounds, step = getattr(node, "bounds", None), float(scale.detach())
    if not math.isfinite(step):
        raise TrainingError(
            f"the scale of '{node.name}' became {step}: the training diverged. Go on from an earlier checkpoint, with a "
            "smaller learning rate."
        )
    low, high = clamp_limits(bounds, window, step)
    if model.round_activations is not None:
        return Quantized(model.round_activations(scaled, low, high, bounds, step), scale)
    return Quantized(clamp_round(scaled, low, high), scale)


def _scale(node: Node, model: QuantizedModel) -> Tensor:
    certificate = model.certificates.get(node.name)
    if certificate is not None and certificate.scale is not None:
        return certificate.scale
    return model.activation_quantizer(node.name).current_scale(math.prod(node.shape))


def _follow(node: Node, values: Tensor, unit: Tensor, model: QuantizedModel) -> None:
    """Move the scale of a tensor towards this batch's values, worth `unit` each, where it follows the data."""
    quantizer = model.activation_quantizer(node.name)
    if quantizer.follows_data:
        quantizer.follow(values, unit, getattr(node, "bounds", None))


def _rescale(node: Node, values: Tensor, unit: Tensor, model: QuantizedModel) -> Quantized:
    """Bring integers worth `unit`, of shape (), to the scale of the node's tensor."""
    certificate = model.certificates.get(node.name)
    if certificate is not None and certificate.multipliers is not None:
        return _finish(node, values * certificate.multipliers, _scale(node, model), model)
    _follow(node, values, unit, model)
    scale = _scale(node, model)
    return _finish(node, scale_by(values, unit / scale), scale, model)


@fake_quantize.register(Input)
def _(node: Input, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    images = inputs[0].values
    _follow(node, images, images.new_ones(()), model)
    scale = _scale(node, model)
    return _finish(node, images / scale, scale, model)


@fake_quantize.register(Conv2d)
@fake_quantize.register(Linear)
def _(node: Conv2d | Linear, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    (source,) = inputs
    certificate = model.certificates.get(node.name)
    if certificate is not None and certificate.weight is not None:
        return _certified_layer(node, source, model, certificate)
    integers, weight_scale = model.weight_quantizer(node.name)(oriented_weight(node, parameters))
    if node.norm is not None and model.norm_momentum is not None:
        return _free_norm_layer(node, source, integers, source.scale * weight_scale, model, parameters)
    still = still_channels(node, parameters) if model.training else None
    if still is not None:
        integers = torch.where(still.reshape(-1, *[1] * (integers.dim() - 1)), integers.detach(), integers)
        weight_scale = torch.where(still, weight_scale.detach(), weight_scale)
    gain, bias = folded_gain_and_bias(node, parameters)
    unit, integers = accumulator_unit(source.scale, weight_scale, gain, bias, integers)
    offsets = bias_integers(bias, unit, model.quantizing.bias_limit)
    if node.name == model.plan.raw:
        return Quantized(convolve(node, source.values, integers, offsets), unit)
    columns = (-1, *[1] * (len(node.shape) - 1))
    if model.activation_quantizer(node.name).follows_data:
        accumulator = convolve(node, source.values, integers, offsets)
        _follow(node, accumulator, unit, model)
        scale = _scale(node, model)
        return _finish(node, accumulator * (unit / scale).reshape(columns), scale, model)
    scale = _scale(node, model)
    ratio = unit / scale
    integers, offsets = carry_ratio(integers, offsets, ratio)
    accumulator = convolve(node, source.values, integers, offsets)
    return _finish(node, accumulator * ratio.detach().reshape(columns), scale, model)


def _certified_layer(
    node: Conv2d | Linear, source: Quantized, model: QuantizedModel, certificate: Certificate
) -> Quantized:
    """The proved integers and multipliers, by the formula of float32 engines."""
    assert certificate.weight is not None
    assert certificate.bias is not None
    assert certificate.unit is not None
    kind = torch.float64 if certificate.wide else torch.float32
    accumulator = convolve(node, source.values.to(kind), certificate.weight.to(kind), certificate.bias.to(kind))
    if certificate.multipliers is None:
        return Quantized(accumulator, certificate.unit)
    # The engine's accumulator is int32, and is itself rounded to float32 first.
    multipliers = certificate.multipliers.reshape(-1, *[1] * (len(node.shape) - 1))
    return _finish(node, accumulator.float() * multipliers, _scale(node, model), model)


def _free_norm_layer(
    node: Conv2d | Linear, source: Quantized, integers: Tensor, unit: Tensor, model: QuantizedModel, parameters: Tensors
) -> Quantized:
    """A layer whose outputs are normalised by the statistics of the batch."""
    accumulator = convolve(node, source.values, integers, None)
    one = torch.ones_like(source.scale)
    momentum = model.norm_momentum
    assert momentum is not None
    if node.name == model.plan.raw:
        return Quantized(normalise_by_batch(node, accumulator, unit, one, parameters, momentum), one)
    if model.activation_quantizer(node.name).follows_data:
        real = normalise_by_batch(node, accumulator, unit, one, parameters, momentum)
        _follow(node, real, one, model)
        scale = _scale(node, model)
        return _finish(node, real / scale, scale, model)
    scale = _scale(node, model)
    return _finish(node, normalise_by_batch(node, accumulator, unit, scale, parameters, momentum), scale, model)


@fake_quantize.register(AvgPool2d)
def _(node: AvgPool2d, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    area = node.kernel[0] * node.kernel[1]
    # divisor_override makes the mean a sum: an integer.
    wide = area * model.activation_quantizer(node.inputs[0]).format.magnitude > FLOAT32_EXACT
    values = inputs[0].values.double() if wide else inputs[0].values
    total = F.avg_pool2d(values, node.kernel, node.stride, node.padding, divisor_override=1)
    unit = inputs[0].scale / area
    if node.name == model.plan.raw:
        return Quantized(total, unit)
    return _rescale(node, total.to(inputs[0].values.dtype), unit, model)  # rounded once, as the certificate says


@fake_quantize.register(Add)
def _(node: Add, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    first, second = inputs
    certificate = model.certificates.get(node.name)
    if certificate is not None and certificate.multipliers is not None:
        total = weighted_sum(first.values, certificate.multipliers[0], second.values, certificate.multipliers[1])
        return _finish(node, total, _scale(node, model), model)
    if model.activation_quantizer(node.name).follows_data:
        real = first.values.detach() * first.scale + second.values.detach() * second.scale
        _follow(node, real, torch.ones_like(first.scale), model)
    scale = _scale(node, model)
    total = weighted_sum(first.values, first.scale / scale, second.values, second.scale / scale)
    return _finish(node, total, scale, model)


@fake_quantize.register(Requantize)
@fake_quantize.register(Clamp)
def _(node: Node, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    return _rescale(node, inputs[0].values, inputs[0].scale, model)


@fake_quantize.register(Concat)
def _(node: Concat, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    return Quantized(torch.cat([value.values for value in inputs], 1), inputs[0].scale)


@fake_quantize.register(Dropout)
def _(node: Dropout, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    return Quantized(F.dropout(inputs[0].values, node.probability, model.training), inputs[0].scale)


@fake_quantize.register(Selection)
def _(node: Selection, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    return Quantized(select(node, inputs[0].values), inputs[0].scale)
