# SPDX-License-Identifier: MIT
"""Products and tables as calls of TIR functions."""

from __future__ import annotations

from math import prod

import numpy as np

from bitwright.export.tvm.kernels.bytewise import Lookup, Multiplication, Shape, lookup, multiplication
from bitwright.export.tvm.kernels.elementwise import LANES, LEVELS
from bitwright.export.tvm.kernels.rescaling import plan_rounding
from bitwright.export.tvm.network import Network, add_to_tvm
from bitwright.integer.operations.product import IntegerProduct
from bitwright.integer.operations.table import IntegerTable


@add_to_tvm.register
def _(op: IntegerProduct, network: Network) -> None:
    largest = np.array([prod(network.model.formats[name].format.magnitude for name in op.inputs)])
    rounding, found = plan_rounding(op.rescale_of_products, largest, LANES, proved=True)
    first, second = op.inputs
    spec = Multiplication(
        _image(op.shape), (_image(network.shapes[first]), _image(network.shapes[second])),
        (network.dtype(first), network.dtype(second)), rounding, network.dtype(op.name),
    )  # fmt: skip
    network.set(op, spec, multiplication, [network.values[name] for name in op.inputs], found.arrays)


def _image(shape: tuple[int, ...]) -> Shape:
    """Channels, height and width; features are channels of one pixel."""
    channels, height, width = shape if len(shape) == 3 else (prod(shape), 1, 1)
    return channels, height, width


@add_to_tvm.register
def _(op: IntegerTable, network: Network) -> None:
    (source,) = op.inputs
    first, dtype = network.model.formats[source].quant_min, network.dtype(op.name)
    low, high = (int(end) for end in (op.entries.min(), op.entries.max()))
    least = min(low, 0) if high - min(low, 0) < LEVELS else None
    entries = np.zeros(LEVELS, dtype if least is None else np.uint8)
    entries[: len(op.entries)] = op.entries if least is None else op.entries - least
    spec = Lookup(prod(op.shape), network.dtype(source), first, least, dtype, network.instructions)
    network.set(op, spec, lookup, [network.values[source]], [entries])
