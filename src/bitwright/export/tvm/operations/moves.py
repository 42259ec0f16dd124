# SPDX-License-Identifier: MIT
"""What only moves integers as calls of TIR functions."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np
import numpy.typing as npt
import torch

from bitwright.errors import ExportError
from bitwright.export.tvm.kernels.moving import Flattening, Placement, Selection, flattening, placement, selection
from bitwright.export.tvm.network import Network, add_to_tvm
from bitwright.graph.evaluate import select
from bitwright.graph.nodes import ChannelShuffle, Concat, DepthToSpace, Flatten, Node, Pad, Rearrange, Slice, Take


@add_to_tvm.register
def _(op: Flatten, network: Network) -> None:
    (source,) = op.inputs
    shape = network.shapes[source]
    if prod(shape[1:]) == 1:
        network.values[op.name] = network.values[source]
        return
    spec = Flattening(shape[0], prod(shape[1:]), network.dtype(source))
    network.set(op, spec, flattening, [network.values[source]])


@add_to_tvm.register
def _(op: Concat, network: Network) -> None:
    _select(op, network, [(index, 0, network.shapes[name][0], 1) for index, name in enumerate(op.inputs)])


@add_to_tvm.register
def _(op: Slice, network: Network) -> None:
    _select(op, network, [(0, op.start, op.stop - op.start, 1)])


@add_to_tvm.register
def _(op: ChannelShuffle, network: Network) -> None:
    # Channel (group i, place j) goes to j * groups + i: for each place, one of every group.
    places = op.shape[0] // op.groups
    _select(op, network, [(0, place, op.groups, places) for place in range(places)])


def _select(op: Node, network: Network, runs: Sequence[tuple[int, int, int, int]]) -> None:
    widths = tuple(network.shapes[name][0] for name in op.inputs)
    kinds = {network.dtype(name) for name in op.inputs}
    if len(kinds) > 1:
        raise ExportError(f"'{op.name}' joins tensors of unlike types: {', '.join(sorted(kinds))}.")
    spec = Selection(prod(op.shape[1:]), widths, tuple(runs), kinds.pop())
    network.set(op, spec, selection, [network.values[name] for name in op.inputs])


@add_to_tvm.register
def _(op: Take, network: Network) -> None:
    (source,) = op.inputs
    shape = network.shapes[source]
    if op.axis == 1:
        channels = np.arange(prod(shape)).reshape(prod(shape[1:]), shape[0])
        _place(op, source, network, channels[:, list(op.places)], 1)
    else:
        _place(op, source, network, _pixels(shape).take(op.places, op.axis - 2), shape[0])


@add_to_tvm.register
def _(op: Pad, network: Network) -> None:
    (source,) = op.inputs
    shape, dtype, value = network.shapes[source], network.dtype(source), network.values[source]
    if op.before[0] or op.after[0]:
        runs = ((-1, 0, op.before[0], 1), (0, 0, shape[0], 1), (-1, 0, op.after[0], 1))
        spec = Selection(prod(shape[1:]), (shape[0],), tuple(run for run in runs if run[2]), dtype)
        shape = (op.shape[0], *shape[1:])
        value = network.call(spec, selection, [value], [], [prod(shape)], dtype)
    around = list(zip(op.before[1:], op.after[1:], strict=True))
    places = np.pad(_pixels(shape), around, constant_values=-1).reshape(-1).astype(np.int32)
    network.set(op, Placement(prod(shape), places.size, shape[0], dtype), placement, [value], [places])


@add_to_tvm.register
def _(op: DepthToSpace, network: Network) -> None:
    (source,) = op.inputs
    block, channels = op.block, op.shape[0]
    within = np.arange(block * block).reshape(block, block) * channels
    places = _pixels(network.shapes[source])[:, None, :, None] + within[None, :, None, :]
    _place(op, source, network, places, channels)


def _place(op: Node, source: str, network: Network, places: npt.NDArray[np.int64], channels: int) -> None:
    """Runs of so many channels from these elements of an image, with zeros where one is negative."""
    spec = Placement(prod(network.shapes[source]), places.size, channels, network.dtype(source))
    network.set(op, spec, placement, [network.values[source]], [places.reshape(-1).astype(np.int32)])


def _pixels(shape: Sequence[int]) -> npt.NDArray[np.int64]:
    """The first element of every pixel: [height, width]."""
    channels, height, width = shape
    return np.arange(height * width).reshape(height, width) * channels


@add_to_tvm.register
def _(op: Rearrange, network: Network) -> None:
    (source,) = op.inputs
    places = select(op, torch.from_numpy(_channels_first(network.shapes[source]))[None])[0].numpy()
    if len(op.shape) == 3:
        places = places.transpose(1, 2, 0)
    # As many channels at a time as always lie one behind the other.
    channels = places.shape[-1]
    run = next(size for size in range(channels, 0, -1) if channels % size == 0 and _in_runs(places.reshape(-1, size)))
    _place(op, source, network, places.reshape(-1, run)[:, 0], run)


def _in_runs(places: npt.NDArray[np.int64]) -> bool:
    """Whether the places of each row follow each other."""
    return bool((np.diff(places, axis=1) == 1).all())


def _channels_first(shape: Sequence[int]) -> npt.NDArray[np.int64]:
    """The place of every element: [channels, height, width], or [features]."""
    places = np.arange(prod(shape))
    return places if len(shape) == 1 else places.reshape(*shape[1:], shape[0]).transpose(2, 0, 1).copy()
