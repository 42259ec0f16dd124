# SPDX-License-Identifier: MIT
"""The reference executor: what an IntegerModel means, in integers only, on any device.

Convolutions of integers run on floating-point kernels where that is exact: in float32 while no partial sum can exceed 2**24,
in float64 (2**53) otherwise. Everything else is int64 arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import singledispatch

import numpy as np
import torch
from torch import Tensor

from bitwright.graph.autocast import full_precision
from bitwright.graph.images import float_images
from bitwright.graph.nodes import Node
from bitwright.integer.model import IntegerModel
from bitwright.integer.ops import Rescale
from bitwright.integer.quant_params import QuantParams
from bitwright.returned import Returned, by_name, returned


@full_precision()
def run(model: IntegerModel, images: Tensor, observe: Callable[[str, Tensor], None] | None = None) -> Returned:
    """Execute `model`.

    Args:
        model: The integer model.
        images: float32, shape (batch, channels, height, width), normalised as in training.
        observe: Called with the name and the integers of every tensor.

    Returns:
        int32, shape (batch, classes): the logits, in the units of `model.outputs`; of several outputs, these by name.

    Raises:
        DataError: If the images have another shape than the model's input, or are not finite.
    """
    images = float_images(images, model.input_shape, model.model)
    last_use = {name: op.name for op in model for name in op.inputs}
    values: dict[str, Tensor] = {}
    for op in model:
        inputs = [values[name] for name in op.inputs] if op.inputs else [images]
        formats = [model.formats[name] for name in op.inputs if name in model.formats]
        values[op.name] = execute_op(op, inputs, formats)
        if observe is not None:
            observe(op.name, values[op.name])
        for name in op.inputs:
            if last_use[name] == op.name and name not in model.returned:
                values.pop(name, None)
    return returned({name: values[output.tensor] for name, output in model.outputs.items()})


def logits(model: IntegerModel, images: Tensor) -> Returned:
    """Real logits, float64, shape (batch, classes): integers times the unit of each class; of several outputs, these by name."""
    return returned(model.real(by_name(run(model, images))))


@singledispatch
def execute_op(op: Node, inputs: list[Tensor], formats: list[QuantParams]) -> Tensor:
    """The int32 result of one operation on int32 inputs (float32 images for `Quantize`)."""
    raise NotImplementedError(f"no reference form of {type(op).__name__}")


def finish(accumulator: Tensor, rescale: Rescale | None) -> Tensor:
    """int64 accumulators of shape (batch, channels, ...) as int32: as they are, or requantized."""
    if rescale is None:
        return accumulator.to(torch.int32)
    columns = (-1, *[1] * (accumulator.dim() - 2))
    multiplier = torch.from_numpy(rescale.multipliers.multiplier.astype(np.int64)).to(accumulator.device)
    shift = torch.from_numpy(rescale.multipliers.shift.astype(np.int64)).to(accumulator.device)
    scaled = round_shift(accumulator * multiplier.reshape(columns), shift.reshape(columns))
    return scaled.clamp_(rescale.low, rescale.high).to(torch.int32)


def round_shift(values: Tensor, shift: Tensor) -> Tensor:
    """`values / 2**shift` in int64, rounded to the nearest, halves to even.

    >>> round_shift(torch.tensor([-6, -2, 2, 6, 7]), torch.tensor(2))
    tensor([-2,  0,  0,  2,  2])
    """
    floor = values >> shift
    rest = values - (floor << shift)
    half = (torch.ones_like(shift) << shift) >> 1
    up = (rest > half) | ((rest == half) & (half > 0) & ((floor & 1) == 1))
    return floor + up
