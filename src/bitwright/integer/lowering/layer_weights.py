# SPDX-License-Identifier: MIT
"""The integer weights of a layer, as its quantizer and the folding of its batch norm make them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.graph.evaluate import Tensors
from bitwright.graph.nodes import Layer
from bitwright.integer.quant_params import QuantParams
from bitwright.training.folding import accumulator_unit, folded_gain_and_bias, sign_folded_weight
from bitwright.training.model import QuantizedModel


@dataclass(frozen=True)
class LayerWeights:
    """What lowering starts a layer from.

    Attributes:
        real: Sign-folded weights [channels, ...], before rounding.
        scale: The scale of the real weights, [channels].
        integers: Shape [channels, ...], as floats.
        unit: What one accumulator is worth, [channels].
        bias: Shape [channels], or None.
        bit_width: The bit width of the weights.
    """

    real: Tensor
    scale: Tensor
    integers: Tensor
    unit: Tensor
    bias: Tensor | None
    bit_width: int


def layer_weights(node: Layer, model: QuantizedModel, parameters: Tensors, params: QuantParams) -> LayerWeights:
    """The weights of a layer whose input has a format."""
    quantizer = model.weight_quantizer(node.name)
    real = sign_folded_weight(node, parameters)
    gain, bias = folded_gain_and_bias(node, parameters)
    integers, scale = quantizer(real)
    input_scale = torch.tensor(params.scale, dtype=scale.dtype, device=scale.device)
    unit, integers = accumulator_unit(input_scale, scale, gain, bias, integers)
    return LayerWeights(real, scale, integers, unit, bias, quantizer.bit_width)


def tensor_params(model: QuantizedModel, tensor: str) -> QuantParams:
    """The format of a tensor as it was trained."""
    quantizer = model.activation_quantizer(tensor)
    return QuantParams(quantizer.format, float(quantizer.current_scale().detach()))
