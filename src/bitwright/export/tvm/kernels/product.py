# SPDX-License-Identifier: MIT
"""Matrix products: blocks of output features, whose weights are read once for up to four images."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.export.tvm.kernels.instructions import LANES, Instructions, repeated
from bitwright.export.tvm.kernels.rescaling import Rounding, constant_parameters, rescaled
from bitwright.export.tvm.kernels.script import (
    Buffer,
    Expr,
    Kernel,
    T,
    cast,
    constant,
    kernel,
    let,
    load,
    number,
    stack,
    store,
)

VECTORS = 2
BLOCK = VECTORS * LANES
STEP = 2
IMAGES = 4


@dataclass(frozen=True)
class Product:
    """One kernel.

    Attributes:
        inputs: Features in, an even number; int16.
        outputs: Features out.
        rounding: None leaves int32 accumulators.
        dtype: The type of the result.
        instructions: The instructions of the CPU.
    """

    inputs: int
    outputs: int
    rounding: Rounding | None
    dtype: str
    instructions: Instructions

    @property
    def blocks(self) -> int:
        """Of output features."""
        return ceil(self.outputs / BLOCK)

    def channel_order(self) -> npt.NDArray[np.int64]:
        """The output feature of every lane, -1 where there is none."""
        lanes = np.arange(self.blocks * BLOCK)
        return np.where(lanes < self.outputs, lanes, -1)

    def arranged(self, weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
        """Weights [outputs, inputs] in the order in which the kernel reads them."""
        rows = np.zeros((self.blocks * BLOCK, self.inputs), dtype=np.int8)
        rows[: len(weight), : weight.shape[1]] = weight
        shape = (self.blocks, VECTORS, LANES, self.inputs // STEP, STEP)
        return np.ascontiguousarray(rows.reshape(shape).transpose(0, 3, 1, 2, 4)).reshape(self.weight_shape)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """(blocks, steps, vectors, lanes * 2)."""
        return (self.blocks, self.inputs // STEP, VECTORS, LANES * STEP)


def product(spec: Product, name: str) -> Any:
    """The TIR function: (values int16, weights, bias, rescaling constants, result of blocks * 16 features)."""
    lanes = spec.blocks * BLOCK
    with kernel(name) as made:
        values = made.tensor("values", spec.inputs, "int16")
        weights = constant("weights", spec.weight_shape, "int8")
        bias = constant("bias", [lanes], "int32")
        constants = constant_parameters(spec.rounding, lanes)
        result = made.tensor("result", spec.outputs, spec.dtype)
        with T.parallel(spec.blocks) as block:
            several = T.floordiv(made.batch + (IMAGES - 1), number(IMAGES, "int64"))
            with T.If(made.batch >= number(IMAGES, "int64")):
                with T.Then(), T.serial(several) as index:
                    first = let(T.min(index * number(IMAGES, "int64"), made.batch - IMAGES))
                    _tile(spec, made, values, weights, bias, constants, result, block, first, IMAGES)
                with T.Else(), T.serial(made.batch) as index:
                    _tile(spec, made, values, weights, bias, constants, result, block, index, 1)
    return made.finished


def _tile(
    spec: Product,
    made: Kernel,
    values: Buffer,
    weights: Buffer,
    bias: Buffer,
    constants: list[Buffer],
    result: Buffer,
    block: Expr,
    first: Expr,
    images: int,
) -> None:
    """One block of features of some images."""
    sums = stack(images * BLOCK, "int32")
    for image in range(images):
        store(sums, load(bias, block * BLOCK, lanes=BLOCK), image * BLOCK, lanes=BLOCK)
    with T.serial(spec.inputs // STEP) as step:
        rows = [
            let(cast(load(weights, block, step, vector, 0, lanes=LANES * STEP), "int16", LANES * STEP))
            for vector in range(VECTORS)
        ]
        for image in range(images):
            value = let(repeated(load(values, first + image, step * STEP, lanes=STEP), "int16"))
            for vector, row in enumerate(rows):
                place = image * BLOCK + vector * LANES
                products = spec.instructions.words(value, row)
                store(sums, load(sums, place, lanes=LANES) + products, place, lanes=LANES)
    few = stack(BLOCK, spec.dtype)
    for image in range(images):
        total = load(sums, image * BLOCK, lanes=BLOCK)
        if spec.rounding is not None:
            total = rescaled(spec.rounding, total, constants, block * BLOCK, BLOCK, spec.dtype)
        store(few, total, 0, lanes=BLOCK)
        with T.serial(T.min(spec.outputs - block * BLOCK, BLOCK)) as feature:
            store(result, load(few, feature), first + image, block * BLOCK + feature)
