# SPDX-License-Identifier: MIT
"""PReLU: a LeakyReLU where all channels have one slope, else a sum of both sides, one of which has a factor for each channel."""

from __future__ import annotations

from torch import fx

from bitwright.graph.aten.arithmetic import affine, function_of, sum_of
from bitwright.graph.aten.elementwise import clamp_node
from bitwright.graph.aten.registry import arguments, constant, handles, tensor
from bitwright.graph.builder import Builder
from bitwright.graph.nodes import Bounds


@handles("prelu")
def _prelu(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source = tensor(builder, fx_node, given["self"])
    slopes = constant(builder, fx_node, given["weight"]).flatten()
    if bool((slopes == slopes[0]).all()):
        return function_of(builder, fx_node, source, float(slopes[0]), "leaky_relu")
    # max(x, 0) + slope min(x, 0)
    columns = slopes.reshape(-1, *[1] * (len(builder.shape_of(source)) - 1))
    below = affine(builder, fx_node, clamp_node(builder, fx_node, source, Bounds(None, 0.0)), gain=columns)
    return sum_of(builder, fx_node, clamp_node(builder, fx_node, source, Bounds(0.0)), below)
