# SPDX-License-Identifier: MIT
"""Slices, flips, paddings, repetition, shuffles of pixels: what selects values by their place, along any axis but the batch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import inf, prod
from typing import Any

import numpy as np
from torch import fx

from bitwright.graph.aten.registry import arguments, constant, handles, tensor
from bitwright.graph.aten.views import as_image, behind_view, is_plain, leading, reshaped
from bitwright.graph.builder import Builder, Constant, Parameter
from bitwright.graph.nodes import Add, Concat, DepthToSpace, Pad, Slice, Take


def take(builder: Builder, fx_node: fx.Node, source: str, axis: int, places: Iterable[int]) -> str:
    """Add the selection of places along an axis (counted with the batch); nothing where it selects all in order."""
    shape, chosen = builder.shape_of(source), tuple(places)
    behind = behind_view(builder, source, axis)
    if behind is not None and chosen:
        origin = take(builder, fx_node, *behind, chosen)
        return reshaped(builder, fx_node, origin, (*shape[: axis - 1], len(chosen), *shape[axis:]))
    if axis == 0:
        raise builder.refuse(fx_node, "it selects images of a batch, whose number is not fixed.")
    if chosen == tuple(range(shape[axis - 1])):
        return source
    if not chosen:
        raise builder.refuse(fx_node, f"it selects nothing of {shape[axis - 1]} places along axis {axis}.")
    if not is_plain(builder, source):
        return _take_of_view(builder, fx_node, source, axis, chosen)
    made = Take(
        name=builder.node_name(fx_node, "take"),
        inputs=(source,),
        shape=(*shape[: axis - 1], len(chosen), *shape[axis:]),
        place=builder.place(fx_node),
        axis=axis,
        places=chosen,
    )
    bounds = made.slice
    if axis == 1 and bounds is not None and bounds[2] == 1:
        return builder.add(
            Slice(
                name=made.name, inputs=made.inputs, shape=made.shape, place=made.place, start=bounds[0], stop=bounds[1]
            )
        )
    return builder.add(made)


def _take_of_view(builder: Builder, fx_node: fx.Node, source: str, axis: int, chosen: tuple[int, ...]) -> str:
    """The same, of a view of an image."""
    shape, channels = builder.shape_of(source), leading(builder, source)
    image = as_image(builder, fx_node, source, channels)
    if axis > channels:
        made = take(builder, fx_node, image, 3 - (len(shape) - axis), chosen)
    else:
        places = np.arange(prod(shape[:channels])).reshape(shape[:channels]).take(chosen, axis - 1)
        made = take(builder, fx_node, image, 1, places.ravel().tolist())
    return reshaped(builder, fx_node, made, (*shape[: axis - 1], len(chosen), *shape[axis:]))


def joined(builder: Builder, fx_node: fx.Node, parts: Sequence[str], axis: int) -> str:
    """Tensors one behind the other along an axis, counted with the batch."""
    shapes = [builder.shape_of(part) for part in parts]
    rank = len(shapes[0])
    made = (*shapes[0][: axis - 1], sum(shape[axis - 1] for shape in shapes), *shapes[0][axis:])
    channels = 1 if is_plain(builder, parts[0]) else min(leading(builder, part) for part in parts)
    if axis == 0:
        raise builder.refuse(fx_node, "it puts images together along the batch, or along a new axis before it.")
    if rank == 1:
        return concatenation(builder, fx_node, parts, made)
    images = [as_image(builder, fx_node, part, channels) for part in parts]
    if axis > channels:
        return reshaped(builder, fx_node, _beside(builder, fx_node, images, 3 - (rank - axis)), made)
    counts = [prod(shape[:channels]) for shape in shapes]
    whole = concatenation(builder, fx_node, images, (sum(counts), *builder.shape_of(images[0])[1:]))
    starts = [sum(counts[:number]) for number in range(len(parts))]
    of_parts = [
        np.arange(start, start + size).reshape(shape[:channels])
        for start, size, shape in zip(starts, counts, shapes, strict=True)
    ]
    places = np.concatenate(of_parts, axis - 1)
    return reshaped(builder, fx_node, take(builder, fx_node, whole, 1, places.ravel().tolist()), made)


def concatenation(builder: Builder, fx_node: fx.Node, parts: Sequence[str], shape: tuple[int, ...]) -> str:
    """Add the concatenation of channels or features."""
    return builder.add(
        Concat(
            name=builder.node_name(fx_node, "concat"), inputs=tuple(parts), shape=shape, place=builder.place(fx_node)
        )
    )


def _beside(builder: Builder, fx_node: fx.Node, parts: Sequence[str], axis: int) -> str:
    """Images side by side along an axis: each has zeros in the places of the others, and they are added up."""
    sizes = [builder.shape_of(part)[axis - 1] for part in parts]
    total: str | None = None
    for number, part in enumerate(parts):
        around = [0] * (2 * (4 - axis))
        around[-2:] = sum(sizes[:number]), sum(sizes[number + 1 :])
        alone = padded(builder, fx_node, part, around)
        total = alone if total is None else added(builder, fx_node, total, alone)
    assert total is not None
    return total


def added(builder: Builder, fx_node: fx.Node, first: str, second: str) -> str:
    """Add the sum of two tensors of one shape."""
    return builder.add(
        Add(
            name=builder.node_name(fx_node, "add"),
            inputs=(first, second),
            shape=builder.shape_of(first),
            place=builder.place(fx_node),
        )
    )


def axis_of(builder: Builder, source: str, axis: int) -> int:
    """An axis counted from the first, the batch."""
    return axis % (len(builder.shape_of(source)) + 1)


@handles("slice")
def _slice(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source = tensor(builder, fx_node, given["self"])
    axis = axis_of(builder, source, given["dim"])
    limits = [given[key] for key in ("start", "end", "step")]
    if axis == 0 and limits[0] in (None, 0) and limits[1] in (None, 2**63 - 1) and limits[2] == 1:
        return source
    if axis == 0 or not all(limit is None or isinstance(limit, int) for limit in limits):
        raise builder.refuse(fx_node, "it selects images of a batch, whose number is not fixed.")
    return take(builder, fx_node, source, axis, range(builder.shape_of(source)[axis - 1])[slice(*limits)])


@handles("narrow")
def _narrow(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source = tensor(builder, fx_node, given["self"])
    start = int(given["start"])
    return take(
        builder, fx_node, source, axis_of(builder, source, given["dim"]), range(start, start + int(given["length"]))
    )


@handles("select")
def _select(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source = tensor(builder, fx_node, given["self"])
    return _picked(builder, fx_node, source, axis_of(builder, source, given["dim"]), int(given["index"]))


def _picked(builder: Builder, fx_node: fx.Node, source: str, axis: int, index: int) -> str:
    """One place along an axis, without the axis."""
    shape = builder.shape_of(source)
    one = take(builder, fx_node, source, axis, [index % shape[axis - 1]] if axis else [])
    return reshaped(builder, fx_node, one, (*shape[: axis - 1], *shape[axis:]))


@handles("unbind")
def _unbind(builder: Builder, fx_node: fx.Node) -> list[str]:
    given = arguments(builder, fx_node)
    source = tensor(builder, fx_node, given["self"])
    axis = axis_of(builder, source, given["dim"])
    return [_picked(builder, fx_node, source, axis, index) for index in range(len(fx_node.meta["val"]))]


@handles("chunk", "split", "split_with_sizes", "tensor_split")
def _chunk(builder: Builder, fx_node: fx.Node) -> list[str]:
    given = arguments(builder, fx_node)
    source = tensor(builder, fx_node, given["self" if "self" in given else "tensor"])
    axis = axis_of(builder, source, given["dim"])
    made, start = [], 0
    for part in fx_node.meta["val"]:
        stop = start + (int(part.shape[axis]) if axis else 0)
        made.append(take(builder, fx_node, source, axis, range(start, stop)))
        start = stop
    return made


@handles("flip")
def _flip(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source = tensor(builder, fx_node, given["self"])
    for axis in {axis_of(builder, source, axis) for axis in given["dims"]}:
        source = take(
            builder, fx_node, source, axis, reversed(range(builder.shape_of(source)[axis - 1] if axis else 0))
        )
    return source


@handles("roll")
def _roll(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source = tensor(builder, fx_node, given["self"])
    for shift, axis in zip(given["shifts"], (axis_of(builder, source, axis) for axis in given["dims"]), strict=True):
        size = builder.shape_of(source)[axis - 1] if axis else 1
        source = take(builder, fx_node, source, axis, [(place - shift) % size for place in range(size)])
    return source


@handles("index_select")
def _index_select(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source = tensor(builder, fx_node, given["self"])
    places = [int(place) for place in constant(builder, fx_node, given["index"])]
    return take(builder, fx_node, source, axis_of(builder, source, given["dim"]), places)


@handles("index")
def _index(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source = tensor(builder, fx_node, given["self"])
    chosen = [(axis, places) for axis, places in enumerate(given["indices"]) if places is not None]
    if len(chosen) != 1 or (places := constant(builder, fx_node, chosen[0][1])).dim() != 1 or _is_mask(fx_node):
        raise builder.refuse(fx_node, "places along one axis are known, as a list or a constant of integers.")
    axis = chosen[0][0]
    size = builder.shape_of(source)[axis - 1] if axis else 1
    return take(builder, fx_node, source, axis, [int(place) % size for place in places])


def _is_mask(fx_node: fx.Node) -> bool:
    """Whether an index is of truth values."""
    kinds = [item.meta["val"].dtype for item in fx_node.args[1] if isinstance(item, fx.Node)]  # type: ignore[union-attr]
    return any(str(kind) == "torch.bool" for kind in kinds)


@handles("pad", "constant_pad_nd")
def _pad(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source, mode = tensor(builder, fx_node, given["self"]), given.get("mode", "constant")
    sizes = [int(size) for size in given["pad"]]
    if mode != "constant":
        return _repeated_border(builder, fx_node, source, sizes, mode)
    if given["value"] == -inf and all(map(_takes_maxima, fx_node.users)):
        # A window that reaches beyond the image holds the last place before: the maximum is the same with that repeated.
        return _repeated_border(builder, fx_node, source, sizes, "replicate")
    if given["value"] not in (None, 0):
        raise builder.refuse(
            fx_node, f"a padding of {given['value']}; zeros are known, and before max pooling alone minus infinity."
        )
    return padded(builder, fx_node, source, sizes)


def _takes_maxima(user: fx.Node) -> bool:
    """Whether an operation is max pooling whose windows have no gaps."""
    if "max_pool2d" not in str(user.target):
        return False
    dilation = user.args[4] if len(user.args) > 4 else user.kwargs.get("dilation", 1)
    return set(dilation if isinstance(dilation, list | tuple) else [dilation]) == {1}


def padded(builder: Builder, fx_node: fx.Node, source: str, sizes: Sequence[int]) -> str:
    """Add zeros before and after the last axis, then the last but one, …, as `F.pad` does; negative sizes cut off."""
    shape = builder.shape_of(source)
    if len(shape) == 2 and len(sizes) == 2:
        image = padded(builder, fx_node, as_image(builder, fx_node, source, 1), sizes)
        return reshaped(builder, fx_node, image, (shape[0], shape[1] + sum(sizes)))
    if len(shape) != 3 or len(sizes) > 6:
        raise builder.refuse(fx_node, f"a padding of a tensor of shape ('batch', {', '.join(map(str, shape))}).")
    befores, afters = ([*sizes[end::2], 0, 0, 0][2::-1] for end in (0, 1))
    for axis, (cut, rest) in enumerate(zip(befores, afters, strict=True), 1):
        source = take(builder, fx_node, source, axis, range(max(0, -cut), shape[axis - 1] - max(0, -rest)))
    before, after = (tuple(max(0, size) for size in given) for given in (befores, afters))
    if not any(before + after):
        return source
    around = zip(builder.shape_of(source), before, after, strict=True)
    return builder.add(
        Pad(
            name=builder.node_name(fx_node, "pad"),
            inputs=(source,),
            shape=tuple(sum(sizes) for sizes in around),
            place=builder.place(fx_node),
            before=(before[0], before[1], before[2]),
            after=(after[0], after[1], after[2]),
        )
    )


@handles("reflection_pad2d", "reflection_pad1d")
def _reflection_pad(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    return _repeated_border(builder, fx_node, tensor(builder, fx_node, given["self"]), given["padding"], "reflect")


@handles("replication_pad2d", "replication_pad1d")
def _replication_pad(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    return _repeated_border(builder, fx_node, tensor(builder, fx_node, given["self"]), given["padding"], "replicate")


def _repeated_border(builder: Builder, fx_node: fx.Node, source: str, sizes: Sequence[int], mode: str) -> str:
    """A border of values of the image itself."""
    rank = len(builder.shape_of(source))
    for number, (before, after) in enumerate(zip(sizes[::2], sizes[1::2], strict=True)):
        axis = rank - number
        size = builder.shape_of(source)[axis - 1]
        source = take(
            builder, fx_node, source, axis, [_origin(place, size, mode) for place in range(-before, size + after)]
        )
    return source


def _origin(place: int, size: int, mode: str) -> int:
    """The place within an axis that a place beyond its ends repeats."""
    if mode == "replicate":
        return min(max(place, 0), size - 1)
    if mode == "circular":
        return place % size
    return size - 1 - abs(size - 1 - abs(place))


@handles("pixel_shuffle")
def _pixel_shuffle(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source, block = tensor(builder, fx_node, given["self"]), int(given["upscale_factor"])
    channels = builder.shape_of(source)[0]
    # PyTorch counts the places of a block innermost, engines outermost.
    places = [channel * block**2 + place for place in range(block**2) for channel in range(channels // block**2)]
    return depth_to_space(builder, fx_node, take(builder, fx_node, source, 1, places), block)


def depth_to_space(builder: Builder, fx_node: fx.Node, source: str, block: int) -> str:
    """Add the move of channels into squares of pixels."""
    channels, height, width = builder.shape_of(source)
    return builder.add(
        DepthToSpace(
            name=builder.node_name(fx_node, "depth_to_space"),
            inputs=(source,),
            shape=(channels // block**2, height * block, width * block),
            place=builder.place(fx_node),
            block=block,
        )
    )


@handles("pixel_unshuffle")
def _pixel_unshuffle(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source, block = tensor(builder, fx_node, given["self"]), int(given["downscale_factor"])
    channels, height, width = builder.shape_of(source)
    parts = [
        take(
            builder,
            fx_node,
            take(builder, fx_node, source, 2, range(row, height, block)),
            3,
            range(column, width, block),
        )
        for row in range(block)
        for column in range(block)
    ]
    whole = concatenation(builder, fx_node, parts, builder.shape(fx_node))
    order = [place * channels + channel for channel in range(channels) for place in range(block**2)]
    return take(builder, fx_node, whole, 1, order)


@handles("expand", "expand_as", "repeat", "broadcast_to")
def _expand(builder: Builder, fx_node: fx.Node) -> str | Constant:
    source, shape = arguments(builder, fx_node)["self"], builder.shape(fx_node)
    if isinstance(source, Parameter | Constant):  # for every image: one stands for all
        return Constant(builder.tensor_of(source).expand(1, *shape))
    return repeated(builder, fx_node, tensor(builder, fx_node, source), shape)


def repeated(builder: Builder, fx_node: fx.Node, source: str, shape: tuple[int, ...]) -> str:
    """A tensor repeated along its axes to a shape, as broadcasting and tiling do."""
    if len(builder.shape_of(source)) != len(shape):
        raise builder.refuse(fx_node, f"it repeats {builder.shape_of(source)} to {shape}, along new axes.")
    for axis, out in enumerate(shape, 1):
        size = builder.shape_of(source)[axis - 1]
        source = take(builder, fx_node, source, axis, [place % size for place in range(out)])
    return source


@handles("getitem")
def _getitem(builder: Builder, fx_node: fx.Node) -> Any:
    source, index = fx_node.args[:2]
    return builder.values[source][index]  # type: ignore[index]
