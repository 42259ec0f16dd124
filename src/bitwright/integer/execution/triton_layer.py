# SPDX-License-Identifier: MIT
"""A layer on Triton's kernels, where its actual weights allow it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.integer.execution.prepared import PreparedModel, proved
from bitwright.integer.execution.triton_steps import PRODUCTS, fits_a_byte, launch, storage, storage_of
from bitwright.integer.multipliers import INT32_MAX, INT32_MIN
from bitwright.integer.ops import IntegerConv2d
from bitwright.integer.proof.bounds import FLOAT32_EXACT, accumulator_bounds, partial_sum_bound
from bitwright.integer.proof.recheck import certified
from bitwright.integer.quant_params import QuantParams

_INT8_MAGNITUDE = 128
_DEEPEST_BLOCK = 64  # bytes of a window at a time
_SMALLEST_BLOCK = 32  # the least depth of a product of int8 matrices


class TritonLayer:
    """A convolution, ready to be launched.

    Args:
        op: The layer.
        model: What it is a part of.
        products: `int8`, `shifted`, `bfloat16` or `float16`, or `depthwise`: see `triton_kernels`.
    """

    def __init__(self, op: IntegerConv2d, model: PreparedModel, products: str) -> None:
        from bitwright.integer.execution import triton_kernels  # Triton is not everywhere

        self.products, self.device = products, model.device
        self._kernel = triton_kernels.depthwise if products == "depthwise" else triton_kernels.convolution
        outputs, per_group, *size = op.weight.shape
        params = model.model.formats[op.inputs[0]]
        self._out = storage_of(op.name, model)
        self._outputs = outputs
        self._window = size, op.stride, op.padding, op.dilation
        if products == "depthwise":
            self._depth = 0
            stored = op.weight[:, 0].transpose(1, 2, 0).reshape(-1, outputs)
        else:
            depth = per_group * size[0] * size[1]
            self._block_k = _DEEPEST_BLOCK if depth >= _DEEPEST_BLOCK else _SMALLEST_BLOCK
            self._depth = -(-depth // self._block_k) * self._block_k
            stored = np.zeros((outputs, self._depth), dtype=np.int8)
            stored[:, :depth] = op.weight.transpose(0, 2, 3, 1).reshape(outputs, depth)
        self._offset = _offset(params) if products == "shifted" else 0
        bias = op.bias.astype(np.int64) + self._offset * _sums(op.weight)
        self._weight = self._on_device(stored)
        self._bias = self._on_device(bias.astype(np.int32))
        self._rescale(op, params, model)

    @classmethod
    def of(cls, op: IntegerConv2d, model: PreparedModel) -> TritonLayer | None:
        """The layer, or None where no kernel computes it exactly."""
        params = model.model.formats[op.inputs[0]]
        kind = storage(params)
        if not fits_a_byte(kind):
            return None
        if op.groups > 1:
            return cls(op, model, "depthwise") if op.weight.shape[1] == 1 else None
        wanted = PRODUCTS[model.kernels]
        if wanted is not None and partial_sum_bound(op.weight, params) <= FLOAT32_EXACT:
            return cls(op, model, wanted)
        if kind is torch.int8:
            return cls(op, model, "int8")
        return cls(op, model, "shifted") if _shift_fits(op, _offset(params)) else None

    def _rescale(self, op: IntegerConv2d, params: QuantParams, model: PreparedModel) -> None:
        """Choose the arithmetic of requantization, and bring its constants to the device."""
        self._low = self._high = 0
        self._arithmetic = "none"
        self._multiplier = self._shift = self._bias
        if op.rescale is None:
            return
        self._low, self._high = op.rescale.low, op.rescale.high
        multipliers = op.rescale.multipliers
        if model.held_in_float32(op.name) and (
            certified(op, model.model) or proved(op.rescale, *accumulator_bounds(op.weight, op.bias, params))
        ):
            self._arithmetic = "float32"
            self._multiplier = self._on_device(np.broadcast_to(multipliers.as_float32(), self._outputs))
            return
        self._arithmetic = "int64"
        self._multiplier = self._on_device(np.broadcast_to(multipliers.multiplier, self._outputs))
        self._shift = self._on_device(np.broadcast_to(multipliers.shift.astype(np.int64), self._outputs))

    def _on_device(self, values: npt.NDArray[Any]) -> Tensor:
        return torch.from_numpy(np.array(values, order="C")).to(self.device)

    def __call__(self, values: Tensor) -> Tensor:
        """int8, uint8 or int16 of shape (batch, channels, height, width) to the layer's result, in channels-last order."""
        values = values.contiguous(memory_format=torch.channels_last)
        batch, channels, *image = values.shape
        size, stride, padding, dilation = self._window
        height, width = (
            (image[axis] + 2 * padding[axis] - dilation[axis] * (size[axis] - 1) - 1) // stride[axis] + 1
            for axis in (0, 1)
        )
        shape = (batch, self._outputs, height, width)
        out = torch.empty(shape, dtype=self._out, device=values.device, memory_format=torch.channels_last)
        rows = batch * height * width
        block_m, block_n, warps = self._blocks(rows)
        blocks = {"BLOCK_M": block_m, "BLOCK_N": block_n}
        if self._depth:
            blocks |= {"BLOCK_K": self._block_k, "STORED_DEPTH": self._depth}
        named = {} if self.products == "depthwise" else {"PRODUCTS": self.products, "OFFSET": self._offset}
        grid = (-(-rows // block_m), -(-self._outputs // block_n))
        launch(
            self._kernel[grid],
            (values, self._weight, self._bias, self._multiplier, self._shift, out, rows),
            (*image, channels, height, width, self._outputs, *size, *stride, *padding, *dilation),
            {"LOW": self._low, "HIGH": self._high, "RESCALE": self._arithmetic, "num_warps": warps, **blocks, **named},
        )
        return out

    def _blocks(self, rows: int) -> tuple[int, int, int]:
        """Rows and columns of a program's result, and its warps: large where there is enough work, else many programs."""
        if self.products == "depthwise":
            return 32, 32, 4
        columns = 32 if self._outputs <= 32 else 64 if self._outputs <= 64 else 128
        if rows * self._outputs >= 2**21:
            return 128, columns, 8 if columns == 128 else 4
        if rows * self._outputs >= 2**18:
            return 64, min(columns, 64), 4
        return 32, 32, 4


def _sums(weight: npt.NDArray[np.int8]) -> npt.NDArray[np.int64]:
    sums: npt.NDArray[np.int64] = weight.reshape(len(weight), -1).astype(np.int64).sum(1)
    return sums


def _offset(params: QuantParams) -> int:
    """What brings the least integer of a format to -128."""
    return params.quant_min + _INT8_MAGNITUDE


def _shift_fits(op: IntegerConv2d, offset: int) -> bool:
    """Whether sums of inputs from -128 to 127, and the bias that undoes the shift, stay within int32."""
    rows = np.abs(op.weight.reshape(len(op.weight), -1).astype(np.int64)).sum(1)
    bias = op.bias.astype(np.int64) + offset * _sums(op.weight)
    return bool((_INT8_MAGNITUDE * rows <= INT32_MAX).all() and (bias >= INT32_MIN).all() and (bias <= INT32_MAX).all())
