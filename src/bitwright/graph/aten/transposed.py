# SPDX-License-Identifier: MIT
"""Transposed convolution: a convolution that makes the pixels of each block as channels, then a move of these into place."""

from __future__ import annotations

from itertools import product

import torch
from torch import Tensor, fx

from bitwright.graph.aten.layers import layer_name
from bitwright.graph.aten.moves import depth_to_space, padded, take
from bitwright.graph.aten.registry import arguments, constant, handles, pair, tensor
from bitwright.graph.builder import Builder
from bitwright.graph.nodes import Conv2d, Pair


@handles("conv_transpose2d")
def _conv_transpose2d(builder: Builder, fx_node: fx.Node) -> str:
    """With stride s, the result at s i + r is the sum over k of w[k] x[i + d], where d = (r + padding - k dilation) / s is whole.

    So each of the s * s rests r is an ordinary convolution of x with some of the taps, and all of them together one with s * s
    times the channels. Taps lie from the least d to the greatest.
    """
    given = arguments(builder, fx_node)
    source = tensor(builder, fx_node, given["input"])
    stride, padding, dilation = (pair(given[key]) for key in ("stride", "padding", "dilation"))
    if stride[0] != stride[1]:
        raise builder.refuse(fx_node, f"a transposed convolution with unlike strides {stride}.")
    block, groups = stride[0], int(given["groups"])
    weight = constant(builder, fx_node, given["weight"])
    name = layer_name(builder, fx_node, given["weight"], "conv_transpose")
    taps = [_offsets(weight.shape[2 + axis], block, padding[axis], dilation[axis]) for axis in range(2)]
    first = [min(offset for _, _, offset in each) for each in taps]
    last = [max(offset for _, _, offset in each) for each in taps]
    out, size = builder.shape(fx_node), builder.shape_of(source)
    blocks = [-(-out[1 + axis] // block) for axis in range(2)]
    around = [(-first[axis], blocks[axis] + last[axis] - size[1 + axis]) for axis in (1, 0)]
    source = padded(builder, fx_node, source, [side for pairs in around for side in pairs])
    kernel = (last[0] - first[0] + 1, last[1] - first[1] + 1)
    made = _phases(weight, groups, block, kernel, taps, first)
    bias = None
    if given["bias"] is not None:
        shared = constant(builder, fx_node, given["bias"]).reshape(groups, 1, -1)
        bias = builder.keep(f"{name}.bias", shared.expand(-1, block**2, -1).flatten())
    made_name = builder.add(
        Conv2d(
            name=name,
            inputs=(source,),
            shape=(out[0] * block**2, blocks[0], blocks[1]),
            place=builder.place(fx_node),
            weight=builder.keep(f"{name}.weight", made),
            bias=bias,
            stride=(1, 1),
            padding=(0, 0),
            dilation=(1, 1),
            groups=groups,
        )
    )
    each = out[0] // groups  # groups outermost become blocks outermost
    order = [
        (group * block**2 + rest) * each + channel
        for rest in range(block**2)
        for group in range(groups)
        for channel in range(each)
    ]
    made_name = take(builder, fx_node, made_name, 1, order)
    if block > 1:
        made_name = depth_to_space(builder, fx_node, made_name, block)
    for axis in (1, 2):
        made_name = take(builder, fx_node, made_name, axis + 1, range(out[axis]))
    return made_name


def _offsets(taps: int, stride: int, padding: int, dilation: int) -> list[tuple[int, int, int]]:
    """Rest, tap and offset of all that meet along an axis."""
    pairs = product(range(stride), range(taps))
    found = [(rest, tap, rest + padding - tap * dilation) for rest, tap in pairs]
    return [(rest, tap, steps // stride) for rest, tap, steps in found if steps % stride == 0]


def _phases(
    weight: Tensor, groups: int, block: int, kernel: Pair, taps: list[list[tuple[int, int, int]]], first: list[int]
) -> Tensor:
    """The weight of the convolution, [groups * block**2 * outputs / groups, inputs / groups, *kernel]."""
    inputs, outputs = weight.shape[0] // groups, weight.shape[1]
    made = torch.zeros(groups, block, block, outputs, inputs, *kernel, dtype=weight.dtype, device=weight.device)
    grouped = weight.reshape(groups, inputs, outputs, *weight.shape[2:]).transpose(1, 2)
    for (row, down, below), (column, across, beside) in product(*taps):
        made[:, row, column, :, :, below - first[0], beside - first[1]] = grouped[..., down, across]
    return made.reshape(-1, inputs, *kernel)
