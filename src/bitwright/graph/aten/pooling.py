# SPDX-License-Identifier: MIT
"""Maximum and average pooling, in all the ways they are written."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from itertools import pairwise
from math import isqrt, lcm, prod

import torch
from torch import fx

from bitwright.graph.aten.arithmetic import Stack, affine, sum_of
from bitwright.graph.aten.moves import axis_of, depth_to_space, padded, take
from bitwright.graph.aten.registry import arguments, handles, pair, tensor
from bitwright.graph.aten.views import is_plain, leading, permuted, reshaped, unshaped
from bitwright.graph.builder import Builder
from bitwright.graph.nodes import AvgPool2d, Conv2d, MaxPool2d, Pair

_LONGEST = 1024
"""Places along an axis that repetition may make: beyond, memory and time are out of proportion."""


_MOST_PARTS = 16
"""That a sum along an axis of a view adds up one by one."""


@handles("max_pool2d_with_indices")
def _max_pool2d_with_indices(builder: Builder, fx_node: fx.Node) -> list[str | None]:
    """The maxima; the places where they are have no integer form."""
    shape = tuple(int(size) for size in fx_node.meta["val"][0].shape[1:])
    return [_pooled(builder, fx_node, shape), None]


@handles("max_pool2d")
def _max_pool2d(builder: Builder, fx_node: fx.Node) -> str:
    return _pooled(builder, fx_node, builder.shape(fx_node))


def _pooled(builder: Builder, fx_node: fx.Node, shape: tuple[int, ...]) -> str:
    """Maxima over windows."""
    given = arguments(builder, fx_node)
    kernel = pair(given["kernel_size"])
    return builder.add(
        MaxPool2d(
            name=builder.node_name(fx_node, "max_pool"),
            inputs=(tensor(builder, fx_node, given["self"]),),
            shape=shape,
            place=builder.place(fx_node),
            kernel=kernel,
            stride=pair(given["stride"]) if given["stride"] else kernel,
            padding=pair(given["padding"]),
            dilation=pair(given["dilation"]),
            ceil_mode=bool(given["ceil_mode"]),
        )
    )


def average(builder: Builder, fx_node: fx.Node, source: str, kernel: Pair, stride: Pair, padding: Pair) -> str:
    """Add means over windows of one area, of which padding is a part."""
    channels, *size = builder.shape_of(source)
    made = [(size[axis] + 2 * padding[axis] - kernel[axis]) // stride[axis] + 1 for axis in range(2)]
    return builder.add(
        AvgPool2d(
            name=builder.node_name(fx_node, "avg_pool"),
            inputs=(source,),
            shape=(channels, *made),
            place=builder.place(fx_node),
            kernel=kernel,
            stride=stride,
            padding=padding,
        )
    )


Window = tuple[int, int]
"""Where a window begins within an image, and where it ends (exclusive), along one axis."""


def _windows(size: int, kernel: int, stride: int, padding: int, out: int, counted: bool) -> list[Window]:
    """What the windows of a pool hold along an axis; with its zeros where those count, in places of the padded image."""
    low, high = (0, size + 2 * padding) if counted else (padding, padding + size)
    limits = [(max(low, place * stride), min(high, place * stride + kernel)) for place in range(out)]
    return limits if counted else [(start - padding, stop - padding) for start, stop in limits]


def _adaptive(size: int, out: int) -> list[Window]:
    """The windows of adaptive pooling, which may overlap and differ by one."""
    return [(place * size // out, -(-(place + 1) * size // out)) for place in range(out)]


def _mean_over(builder: Builder, fx_node: fx.Node, source: str, windows: Sequence[list[Window]]) -> str:
    """Means over windows of any lengths, of two axes.

    Windows of unlike lengths become alike where each of their places is repeated: a mean over 3 places and one over 2 are means
    over 6, in which each place stands twice, or three times.
    """
    kernel, stride = [1, 1], [1, 1]
    for axis, limits in enumerate(windows):
        lengths = {stop - start for start, stop in limits}
        steps = {after[0] - before[0] for before, after in pairwise(limits)} or {limits[0][1]}
        if len(lengths) == 1 and len(steps) == 1 and 0 not in steps:
            source = take(builder, fx_node, source, axis + 2, range(limits[0][0], limits[-1][1]))
            kernel[axis], stride[axis] = lengths.pop(), steps.pop()
            continue
        common = lcm(*lengths)
        if common * len(limits) > _LONGEST:
            raise builder.refuse(
                fx_node, f"its windows of {sorted(lengths)} places have {common} in common, which is too long."
            )
        places = [
            place for start, stop in limits for place in range(start, stop) for _ in range(common // (stop - start))
        ]
        source = take(builder, fx_node, source, axis + 2, places)
        kernel[axis] = stride[axis] = common
    if kernel == [1, 1] and stride == [1, 1]:
        return source
    return average(builder, fx_node, source, (kernel[0], kernel[1]), (stride[0], stride[1]), (0, 0))


@handles("avg_pool2d")
def _avg_pool2d(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source = tensor(builder, fx_node, given["self"])
    kernel, padding = pair(given["kernel_size"]), pair(given["padding"])
    stride = pair(given["stride"]) if given["stride"] else kernel
    size, out = builder.shape_of(source)[1:], builder.shape(fx_node)[1:]
    reach = [(out[axis] - 1) * stride[axis] + kernel[axis] - size[axis] - padding[axis] for axis in range(2)]
    divisor, counted = given["divisor_override"], bool(given["count_include_pad"])
    if divisor is not None:
        around = [padding[1], max(0, reach[1]), padding[0], max(0, reach[0])]
        mean = average(builder, fx_node, padded(builder, fx_node, source, around), kernel, stride, (0, 0))
        return affine(builder, fx_node, mean, gain=prod(kernel) / divisor)
    if (counted or padding == (0, 0)) and reach[0] <= padding[0] and reach[1] <= padding[1]:
        return average(builder, fx_node, source, kernel, stride, padding)
    windows = [_windows(size[axis], kernel[axis], stride[axis], padding[axis], out[axis], counted) for axis in range(2)]
    if counted:
        source = padded(builder, fx_node, source, [padding[1]] * 2 + [padding[0]] * 2)
    return _mean_over(builder, fx_node, source, windows)


@handles("adaptive_avg_pool2d")
def _adaptive_avg_pool2d(builder: Builder, fx_node: fx.Node) -> str:
    source = tensor(builder, fx_node, arguments(builder, fx_node)["self"])
    sizes = zip(builder.shape_of(source)[1:], builder.shape(fx_node)[1:], strict=True)
    return _mean_over(builder, fx_node, source, [_adaptive(size, out) for size, out in sizes])


@handles("adaptive_max_pool2d")
def _adaptive_max_pool2d(builder: Builder, fx_node: fx.Node) -> list[str | None]:
    """The maxima; the places where they are have no integer form."""
    source = tensor(builder, fx_node, arguments(builder, fx_node)["self"])
    out = tuple(int(size) for size in fx_node.meta["val"][0].shape[2:])
    for axis, (size, count) in enumerate(zip(builder.shape_of(source)[1:], out, strict=True), 2):
        windows = _adaptive(size, count)
        longest = max(stop - start for start, stop in windows)
        places = [min(place, stop - 1) for start, stop in windows for place in range(start, start + longest)]
        source = take(builder, fx_node, source, axis, places)
    height, width = builder.shape_of(source)[1:]
    return [_maximum(builder, fx_node, source, (height // out[0], width // out[1])), None]


def _maximum(builder: Builder, fx_node: fx.Node, source: str, kernel: Pair) -> str:
    """Maxima over windows that lie side by side."""
    if kernel == (1, 1):
        return source
    channels, height, width = builder.shape_of(source)
    return builder.add(
        MaxPool2d(
            name=builder.node_name(fx_node, "max_pool"),
            inputs=(source,),
            shape=(channels, height // kernel[0], width // kernel[1]),
            place=builder.place(fx_node),
            kernel=kernel,
            stride=kernel,
            padding=(0, 0),
            dilation=(1, 1),
            ceil_mode=False,
        )
    )


@handles("mean")
def _mean(builder: Builder, fx_node: fx.Node) -> str:
    if (branches := _branches(builder, fx_node)) is not None:
        total = _total(builder, fx_node, branches)
        return reshaped(
            builder, fx_node, affine(builder, fx_node, total, gain=1 / len(branches)), builder.shape(fx_node)
        )
    source, kernel, channels = _whole_axes(builder, fx_node, "a mean")
    if channels:
        source = _over_channels(builder, fx_node, source, 1 / builder.shape_of(source)[0])
    return reshaped(builder, fx_node, average(builder, fx_node, source, kernel, kernel, (0, 0)), builder.shape(fx_node))


def _over_channels(builder: Builder, fx_node: fx.Node, source: str, weight: float) -> str:
    """The sum over the channels times a number: a convolution, whose equal weights are exact in integers of any width."""
    channels, height, width = builder.shape_of(source)
    name = builder.node_name(fx_node, "channels")
    return builder.add(
        Conv2d(
            name=name,
            inputs=(source,),
            shape=(1, height, width),
            place=builder.place(fx_node),
            weight=builder.keep(f"{name}.weight", torch.full((1, channels, 1, 1), weight)),
            bias=None,
            stride=(1, 1),
            padding=(0, 0),
            dilation=(1, 1),
            groups=1,
        )
    )


@handles("sum")
def _sum(builder: Builder, fx_node: fx.Node) -> str:
    if (branches := _branches(builder, fx_node)) is not None:
        return reshaped(builder, fx_node, _total(builder, fx_node, branches), builder.shape(fx_node))
    source, kernel, channels = _whole_axes(builder, fx_node, "a sum")
    if channels:
        source = _over_channels(builder, fx_node, source, 1.0)
    mean = average(builder, fx_node, source, kernel, kernel, (0, 0))
    return reshaped(builder, fx_node, affine(builder, fx_node, mean, gain=float(prod(kernel))), builder.shape(fx_node))


def _total(builder: Builder, fx_node: fx.Node, parts: Sequence[str]) -> str:
    """The sum of tensors of one shape."""
    return reduce(lambda total, part: sum_of(builder, fx_node, total, part), parts)


def _branches(builder: Builder, fx_node: fx.Node) -> Sequence[str] | None:
    """The parts along the one axis that a reduction names: of a stack, or of a view that has several axes for the channels."""
    given = arguments(builder, fx_node)
    stack = given["self"]
    if isinstance(stack, Stack):
        if given.get("dim") != [stack.axis] or given["keepdim"]:
            raise builder.refuse(
                fx_node, f"it reduces axes {given.get('dim')} of tensors that are stacked along {stack.axis}."
            )
        return stack.parts
    source = tensor(builder, fx_node, given["self"])
    axes = [given["dim"]] if isinstance(given["dim"], int) else given["dim"]
    if not axes or len(axes) > 1 or is_plain(builder, source):
        return None
    axis = axis_of(builder, source, axes[0])
    if not 1 <= axis <= leading(builder, source):
        return None
    size = builder.shape_of(source)[axis - 1]
    return None if size > _MOST_PARTS else [take(builder, fx_node, source, axis, [place]) for place in range(size)]


@handles("amax")
def _amax(builder: Builder, fx_node: fx.Node) -> str:
    return maximum_over(builder, fx_node, builder.shape(fx_node))


def maximum_over(builder: Builder, fx_node: fx.Node, shape: tuple[int, ...]) -> str:
    """The maximum over the axes that an operation names; channels become squares of pixels for it."""
    source, kernel, channels = _whole_axes(builder, fx_node, "a maximum")
    if channels:
        count = builder.shape_of(source)[0]
        block = isqrt(count - 1) + 1
        source = take(builder, fx_node, source, 1, [min(place, count - 1) for place in range(block**2)])
        if block > 1:
            source = depth_to_space(builder, fx_node, source, block)
        kernel = (kernel[0] * block, kernel[1] * block)
    return reshaped(builder, fx_node, _maximum(builder, fx_node, source, kernel), shape)


def _whole_axes(builder: Builder, fx_node: fx.Node, what: str) -> tuple[str, Pair, bool]:
    """The image that a reduction reads, its window, and whether channels are reduced; views of images are looked behind."""
    given = arguments(builder, fx_node)
    source = tensor(builder, fx_node, given["self"])
    rank = len(builder.shape_of(source)) + 1
    named = [given["dim"]] if isinstance(given["dim"], int) else given["dim"]
    axes = sorted(int(axis) % rank for axis in named or range(rank))
    origin, shape = unshaped(builder, source)
    if rank != 4 and axes == list(range(2, rank)) and len(shape) == 3 and shape[0] == builder.shape_of(source)[0]:
        return origin, (shape[1], shape[2]), False
    if not is_plain(builder, source) and 0 not in axes:
        others = [axis for axis in range(1, rank) if axis not in axes]
        last = permuted(builder, fx_node, source, (0, *others, *axes))
        count = prod(builder.shape_of(source)[axis - 1] for axis in axes)
        return reshaped(builder, fx_node, last, (prod(builder.shape_of(source)) // count, 1, count)), (1, count), False
    if rank != 4 or not set(axes) <= {1, 2, 3}:
        raise builder.refuse(
            fx_node, f"{what} over axes {axes} of {rank}; channels, height and width of images are known."
        )
    shape = builder.shape_of(source)
    return source, (shape[1] if 2 in axes else 1, shape[2] if 3 in axes else 1), 1 in axes
