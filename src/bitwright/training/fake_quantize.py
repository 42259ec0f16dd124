# SPDX-License-Identifier: MIT
"""What each node computes in a QuantizedModel: the integer operation, with straight-through gradients.

Every requantization is `clamp(round(accumulator * ratio))`, in float32. In evaluation mode with certificates, the ratio is a
proved multiplier, and the result is the integer model's, bit for bit.
"""

from __future__ import annotations

from functools import singledispatch
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.graph.execute import Tensors, convolve, folded_weight, rearrange
from bitwright.graph.nodes import (
    Add,
    AvgPool2d,
    Bounds,
    ChannelShuffle,
    Clamp,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Node,
    Requantize,
    Slice,
)
from bitwright.training.norm import normalise_by_batch
from bitwright.training.quantized import Quantized
from bitwright.training.quantizers import round_half_even

if TYPE_CHECKING:
    from bitwright.training.model import QuantizedModel

BIAS_MAX = 2**30  # a float32 number; leaves the other half of int32 to the products


def clamp_limits(bounds: Bounds | None, quant_min: int, quant_max: int, scale: float) -> tuple[int, int]:
    """The integers between which a node clamps: its format, narrowed by its fused clamp.

    >>> clamp_limits(Bounds(0.0, 6.0), 0, 255, 0.05)
    (0, 120)
    """
    low, high = quant_min, quant_max
    if bounds is not None and bounds.minimum is not None:
        low = max(low, _nearest(bounds.minimum, scale))
    if bounds is not None and bounds.maximum is not None:
        high = min(high, _nearest(bounds.maximum, scale))
    return min(low, high), high


def _nearest(bound: float, scale: float) -> int:
    return round(max(min(bound / scale, 2.0**31), -(2.0**31)))


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


def _requantize(
    node: Node, real_units: Tensor, unit: Tensor, model: QuantizedModel, multiplier: Tensor | None
) -> Quantized:
    """Bring `real_units * unit` to the scale of the node's quantizer.

    Args:
        node: The operation whose result this is.
        real_units: Accumulators.
        unit: What one of them is worth: shape () or broadcastable.
        model: Gives the quantizer.
        multiplier: A proved ratio to use instead of `unit / scale`, or None.
    """
    quantizer = model.activation_quantizer(node.name)
    if quantizer.training:
        quantizer.observe(real_units * unit)
    scale = quantizer.current_scale(real_units[0].numel())
    spec = quantizer.spec
    low, high = clamp_limits(getattr(node, "bounds", None), spec.quant_min, spec.quant_max, float(scale.detach()))
    scaled = real_units * (unit / scale) if multiplier is None else (real_units * multiplier).float()
    return Quantized(round_half_even(scaled.clamp(low, high)), scale)


@fake_quantize.register(Input)
def _(node: Input, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    quantizer = model.activation_quantizer(node.name)
    if quantizer.training:
        quantizer.observe(inputs[0].values)
    scale = quantizer.current_scale(inputs[0].values[0].numel())
    scaled = inputs[0].values / scale
    return Quantized(round_half_even(scaled.clamp(quantizer.spec.quant_min, quantizer.spec.quant_max)), scale)


@fake_quantize.register(Conv2d)
@fake_quantize.register(Linear)
def _(node: Conv2d | Linear, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    source, certificate = inputs[0], model.certificates.get(node.name)
    quantizer = model.weight_quantizer(node.name)
    columns = (-1, *[1] * (len(node.shape) - 1))
    if certificate is not None:
        assert certificate.weight is not None
        kind = torch.float64 if certificate.wide else torch.float32
        bias = None if certificate.bias is None else certificate.bias.to(kind)
        accumulator = convolve(node, source.values.to(kind), certificate.weight.to(kind), bias)
        unit = source.scale * quantizer.scale.abs()
    else:
        weight, bias = folded_weight(node, parameters)
        integers, weight_scale = quantizer(weight)
        unit = source.scale * weight_scale
        if bias is not None and node.norm is not None and model.training and model.free_norm:
            accumulator = normalise_by_batch(node, convolve(node, source.values, integers, None), unit, parameters)
        else:
            rounded = None if bias is None else round_half_even((bias / unit).clamp(-BIAS_MAX, BIAS_MAX))
            accumulator = convolve(node, source.values, integers, rounded)
    if node.name == model.plan.raw:
        return Quantized(accumulator, unit)
    multiplier = None
    if certificate is not None and certificate.multipliers is not None:
        multiplier = certificate.multipliers.to(torch.float32).reshape(columns)
        # The float32 engine's formula: the accumulator itself is rounded to float32 first.
        accumulator = accumulator.float()
    return _requantize(node, accumulator, unit.reshape(columns), model, multiplier)


@fake_quantize.register(AvgPool2d)
def _(node: AvgPool2d, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    area = node.kernel[0] * node.kernel[1]
    # divisor_override makes the mean a sum: an integer.
    total = F.avg_pool2d(inputs[0].values, node.kernel, node.stride, node.padding, divisor_override=1)
    unit = inputs[0].scale / area
    if node.name == model.plan.raw:
        return Quantized(total, unit)
    return _requantize(node, total, unit, model, _multiplier(node, model))


@fake_quantize.register(Add)
def _(node: Add, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    certified = _multiplier(node, model)
    if certified is not None:
        total = inputs[0].values * certified[0] + inputs[1].values * certified[1]
        return _requantize(node, total, total.new_ones(()), model, total.new_ones(()))
    total = inputs[0].values * inputs[0].scale + inputs[1].values * inputs[1].scale
    return _requantize(node, total, total.new_ones(()), model, None)


@fake_quantize.register(Requantize)
@fake_quantize.register(Clamp)
def _(node: Node, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    return _requantize(node, inputs[0].values, inputs[0].scale, model, _multiplier(node, model))


@fake_quantize.register(Concat)
def _(node: Concat, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    return Quantized(torch.cat([value.values for value in inputs], 1), inputs[0].scale)


@fake_quantize.register(Dropout)
def _(node: Dropout, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    return Quantized(F.dropout(inputs[0].values, node.probability, model.training), inputs[0].scale)


@fake_quantize.register(MaxPool2d)
@fake_quantize.register(Flatten)
@fake_quantize.register(Slice)
@fake_quantize.register(ChannelShuffle)
def _(node: Node, inputs: list[Quantized], model: QuantizedModel, parameters: Tensors) -> Quantized:
    return Quantized(rearrange(node, inputs[0].values), inputs[0].scale)


def _multiplier(node: Node, model: QuantizedModel) -> Tensor | None:
    certificate = model.certificates.get(node.name)
    return None if certificate is None else certificate.multipliers
