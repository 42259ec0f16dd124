# SPDX-License-Identifier: MIT
"""Tensors of one number for every image of a batch: constants, as the number is the same whatever the batch."""

from __future__ import annotations

import torch
from torch import fx

from bitwright.graph.aten.registry import arguments, handles
from bitwright.graph.builder import Builder, Constant


@handles("zeros_like", "new_zeros", "zeros")
def _zeros(builder: Builder, fx_node: fx.Node) -> Constant:
    return _filled(builder, fx_node, 0.0)


@handles("ones_like", "new_ones", "ones")
def _ones(builder: Builder, fx_node: fx.Node) -> Constant:
    return _filled(builder, fx_node, 1.0)


@handles("full_like", "new_full", "full")
def _full(builder: Builder, fx_node: fx.Node) -> Constant:
    return _filled(builder, fx_node, float(arguments(builder, fx_node)["fill_value"]))


def _filled(builder: Builder, fx_node: fx.Node, value: float) -> Constant:
    """What stands for all images: one of them, which broadcasts."""
    batch = fx_node.meta["val"].shape[:1]
    if not batch or isinstance(batch[0], int):
        raise builder.refuse(fx_node, "the number of images is not its first axis.")
    return Constant(torch.full((1, *builder.shape(fx_node)), value))
