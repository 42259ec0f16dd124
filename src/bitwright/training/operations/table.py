# SPDX-License-Identifier: MIT
"""Tables in training: the function in float32, rounded; once lowered, the table's own entries."""

from __future__ import annotations

import torch

from bitwright.graph.functions import compute
from bitwright.graph.operations.table import Table
from bitwright.training.context import ForwardContext
from bitwright.training.fake_quantize import fake_quantize, finish, follow, scale_of
from bitwright.training.quantized import Quantized


@fake_quantize.register
def _(node: Table, inputs: list[Quantized], context: ForwardContext) -> Quantized:
    (source,) = inputs
    certificate = context.certificates.get(node.name)
    if certificate is not None and certificate.table is not None:
        places = source.values.to(torch.int32) - certificate.table_start
        return Quantized(certificate.table[places], scale_of(node, context))
    real = compute(node.program, source.values * source.scale)
    follow(node, real, torch.ones_like(source.scale), context)
    scale = scale_of(node, context)
    return finish(node, real / scale, scale, context)
