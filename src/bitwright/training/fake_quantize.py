# SPDX-License-Identifier: MIT
"""What each node computes in a QuantizedModel: the integer operation, with straight-through gradients.

Every requantization is `clamp(round(accumulator * ratio))`, in float32. In evaluation mode with certificates, the ratio is a
proved multiplier, and the result is the integer model's, bit for bit.
"""

from __future__ import annotations

import math
from functools import singledispatch

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.errors import TrainingError
from bitwright.graph.evaluate import convolve, select
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
from bitwright.quantizer.sums import FLOAT32_EXACT, magnitude, window_sums
from bitwright.quantizer.units import moved_unit
from bitwright.training.context import ForwardContext
from bitwright.training.folding import (
    accumulator_unit,
    bias_integers,
    folded_gain_and_bias,
    sign_folded_weight,
    still_channels,
)
from bitwright.training.norm import normalise_by_batch
from bitwright.training.quantized import Certificate, Quantized
from bitwright.training.straight_through import clamp_round, scale_by, weighted_sum, with_ratio_gradient


@singledispatch
def fake_quantize(node: Node, inputs: list[Quantized], context: ForwardContext) -> Quantized:
    """The integers of one tensor.

    Args:
        node: The operation.
        inputs: What it reads, in order.
        context: What all nodes of the pass share.
    """
    raise NotImplementedError(f"no quantized form of {type(node).__name__}")


def finish(node: Node, scaled: Tensor, scale: Tensor, context: ForwardContext) -> Quantized:
    """Round `scaled`, in steps of `scale`, to the format of the node's tensor."""
    certificate = context.certificates.get(node.name)
    window = certificate.format if certificate is not None else None
    window = window or context.activations[node.name].format
    step = float(scale.detach()) if certificate is not None else context.activations[node.name].step()
    bounds = getattr(node, "bounds", None)
    if not math.isfinite(step):
        raise TrainingError(
            f"the scale of '{node.name}' became {step}: the training diverged. Go on from an earlier checkpoint, with a "
            "smaller learning rate."
        )
    low, high = clamp_limits(bounds, window, step)
    if context.round_activations is not None:
        return Quantized(context.round_activations(scaled, low, high, bounds, step), scale)
    return Quantized(clamp_round(scaled, low, high), scale)


def scale_of(node: Node, context: ForwardContext) -> Tensor:
    """The scale of a node's tensor, shape ()."""
    certificate = context.certificates.get(node.name)
    if certificate is not None and certificate.scale is not None:
        return certificate.scale
    return context.activations[node.name].current_scale(math.prod(node.shape))


def follow(node: Node, values: Tensor, unit: Tensor, context: ForwardContext) -> None:
    """Move the scale of a tensor towards this batch's values, worth `unit` each, where it follows the data."""
    quantizer = context.activations[node.name]
    if quantizer.follows_data:
        quantizer.follow(values, unit, getattr(node, "bounds", None))


def rescale(node: Node, values: Tensor, unit: Tensor, context: ForwardContext) -> Quantized:
    """Bring integers worth `unit`, of shape (), to the scale of the node's tensor."""
    certificate = context.certificates.get(node.name)
    if certificate is not None and certificate.multipliers is not None:
        return finish(node, values * certificate.multipliers, scale_of(node, context), context)
    follow(node, values, unit, context)
    scale = scale_of(node, context)
    return finish(node, scale_by(values, unit / scale), scale, context)


@fake_quantize.register(Input)
def _(node: Input, inputs: list[Quantized], context: ForwardContext) -> Quantized:
    images = inputs[0].values
    follow(node, images, images.new_ones(()), context)
    scale = scale_of(node, context)
    return finish(node, images / scale, scale, context)


@fake_quantize.register(Conv2d)
@fake_quantize.register(Linear)
def _(node: Conv2d | Linear, inputs: list[Quantized], context: ForwardContext) -> Quantized:
    (source,) = inputs
    certificate = context.certificates.get(node.name)
    if certificate is not None and certificate.weight is not None:
        return _certified_layer(node, source, context, certificate)
    integers, weight_scale = context.weights[node.name](sign_folded_weight(node, context.parameters))
    if node.norm is not None and context.norm_momentum is not None:
        return _free_norm_layer(node, source, integers, source.scale * weight_scale, context)
    still = still_channels(node, context.parameters) if context.training else None
    if still is not None:
        integers = torch.where(still.reshape(-1, *[1] * (integers.dim() - 1)), integers.detach(), integers)
        weight_scale = torch.where(still, weight_scale.detach(), weight_scale)
    gain, bias = folded_gain_and_bias(node, context.parameters)
    unit, integers = accumulator_unit(source.scale, weight_scale, gain, bias, integers)
    offsets = None if bias is None else bias_integers(bias, unit, context.quantizing.bias_limit)
    if node.name in context.plan.accumulators:
        return Quantized(convolve(node, source.values, integers, offsets), unit)
    columns = (-1, *[1] * (len(node.shape) - 1))
    if context.activations[node.name].follows_data:
        accumulator = convolve(node, source.values, integers, offsets)
        follow(node, accumulator, unit, context)
        scale = scale_of(node, context)
        return finish(node, accumulator * (unit / scale).reshape(columns), scale, context)
    scale = scale_of(node, context)
    ratio = unit / scale
    integers, offsets = with_ratio_gradient(integers, offsets, ratio)
    accumulator = convolve(node, source.values, integers, offsets)
    return finish(node, accumulator * ratio.detach().reshape(columns), scale, context)


def _certified_layer(
    node: Conv2d | Linear, source: Quantized, context: ForwardContext, certificate: Certificate
) -> Quantized:
    """The proved integers and multipliers, by the formula of float32 engines."""
    assert certificate.weight is not None
    assert certificate.bias is not None
    assert certificate.unit is not None
    kind = torch.float64 if certificate.needs_float64 else torch.float32
    accumulator = convolve(node, source.values.to(kind), certificate.weight.to(kind), certificate.bias.to(kind))
    if certificate.multipliers is None:
        return Quantized(accumulator, certificate.unit)
    # The engine's accumulator is int32, and is itself rounded to float32 first.
    multipliers = certificate.multipliers.reshape(-1, *[1] * (len(node.shape) - 1))
    return finish(node, accumulator.float() * multipliers, scale_of(node, context), context)


def _free_norm_layer(
    node: Conv2d | Linear,
    source: Quantized,
    integers: Tensor,
    unit: Tensor,
    context: ForwardContext,
) -> Quantized:
    """A layer whose outputs are normalised by the statistics of the batch."""
    accumulator = convolve(node, source.values, integers, None)
    one = torch.ones_like(source.scale)
    momentum, limit = context.norm_momentum, context.quantizing.bias_limit
    assert momentum is not None
    if node.name in context.plan.accumulators:
        return Quantized(normalise_by_batch(node, accumulator, unit, one, context.parameters, momentum, limit), one)
    if context.activations[node.name].follows_data:
        real = normalise_by_batch(node, accumulator, unit, one, context.parameters, momentum, limit)
        follow(node, real, one, context)
        scale = scale_of(node, context)
        return finish(node, real / scale, scale, context)
    scale = scale_of(node, context)
    result = normalise_by_batch(node, accumulator, unit, scale, context.parameters, momentum, limit)
    return finish(node, result, scale, context)


@fake_quantize.register(AvgPool2d)
def _(node: AvgPool2d, inputs: list[Quantized], context: ForwardContext) -> Quantized:
    area = node.kernel[0] * node.kernel[1]
    # divisor_override makes the mean a sum: an integer.
    window = context.activations[node.inputs[0]].format
    in_float64 = magnitude(window_sums(node.kernel, window.ends)) > FLOAT32_EXACT
    values = inputs[0].values.double() if in_float64 else inputs[0].values
    total = F.avg_pool2d(values, node.kernel, node.stride, node.padding, divisor_override=1)
    unit = inputs[0].scale / area
    if node.name in context.plan.accumulators:
        return Quantized(total, unit)
    return rescale(node, total.to(inputs[0].values.dtype), unit, context)  # rounded once, as the certificate says


@fake_quantize.register(Add)
def _(node: Add, inputs: list[Quantized], context: ForwardContext) -> Quantized:
    first, second = inputs
    certificate = context.certificates.get(node.name)
    if certificate is not None and certificate.multipliers is not None:
        total = weighted_sum(first.values, certificate.multipliers[0], second.values, certificate.multipliers[1])
        return finish(node, total, scale_of(node, context), context)
    if context.activations[node.name].follows_data:
        real = first.values.detach() * first.scale + second.values.detach() * second.scale
        follow(node, real, torch.ones_like(first.scale), context)
    scale = scale_of(node, context)
    total = weighted_sum(first.values, first.scale / scale, second.values, second.scale / scale)
    return finish(node, total, scale, context)


@fake_quantize.register(Requantize)
@fake_quantize.register(Clamp)
def _(node: Node, inputs: list[Quantized], context: ForwardContext) -> Quantized:
    return rescale(node, inputs[0].values, inputs[0].scale, context)


@fake_quantize.register(Concat)
def _(node: Concat, inputs: list[Quantized], context: ForwardContext) -> Quantized:
    return Quantized(torch.cat([value.values for value in inputs], 1), inputs[0].scale)


@fake_quantize.register(Dropout)
def _(node: Dropout, inputs: list[Quantized], context: ForwardContext) -> Quantized:
    return Quantized(F.dropout(inputs[0].values, node.probability, context.training), inputs[0].scale)


@fake_quantize.register(Selection)
def _(node: Selection, inputs: list[Quantized], context: ForwardContext) -> Quantized:
    (source,) = inputs
    scale = moved_unit(node, source.scale, tuple(source.values.shape[1:]))
    assert scale is not None  # the plan lets no other accumulators leave
    return Quantized(select(node, source.values), scale)
