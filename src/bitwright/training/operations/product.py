# SPDX-License-Identifier: MIT
"""Products in training: the exact integer a * b, at the scale s_a s_b, brought to that of the result."""

from __future__ import annotations

import torch

from bitwright.graph.operations.product import Product
from bitwright.training.context import ForwardContext
from bitwright.training.fake_quantize import fake_quantize, rescale
from bitwright.training.quantized import Quantized


@fake_quantize.register
def _(node: Product, inputs: list[Quantized], context: ForwardContext) -> Quantized:
    first, second = inputs
    return rescale(node, torch.mul(first.values, second.values), first.scale * second.scale, context)
