# SPDX-License-Identifier: MIT
"""The operations of an integer model on Triton's kernels, each where its actual weights allow it.

Between operations, a tensor is kept in one byte for each value if its format has at most eight bits, in channels-last order. What
has no kernel here takes the step that `prepared` would take, on the same integers in float32: grouped convolutions other than
depthwise ones, average pooling, inputs of more than eight bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.errors import LoweringError
from bitwright.graph.evaluate import select
from bitwright.graph.nodes import Concat, MaxPool2d, Move, Node
from bitwright.integer.execution.prepared import PreparedModel, Step, prepare_op, proved
from bitwright.integer.multipliers import INT32_MAX, INT32_MIN
from bitwright.integer.ops import (
    IntegerAdd,
    IntegerAvgPool2d,
    IntegerConv2d,
    IntegerFloorAvgPool2d,
    IntegerLinear,
    IntegerRequantize,
    Quantize,
    ReciprocalQuantize,
)
from bitwright.integer.proof.bounds import FLOAT32_EXACT, accumulator_bounds, partial_sum_bound
from bitwright.integer.quant_params import QuantParams

PRODUCTS: Mapping[str, str | None] = {"triton": None, "triton-bf16": "bfloat16", "triton-fp16": "float16"}
"""The type that tensor cores multiply in, by choice of kernels; None is int8."""

_INT8_MAGNITUDE = 128
_DEEPEST_BLOCK = 64  # bytes of a window at a time
_SMALLEST_BLOCK = 32  # the least depth of a product of int8 matrices
_ADDITION_BLOCK = 1024


def interpreted() -> bool:
    """Whether Triton's kernels run on the CPU, which they do for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def check_triton(device: torch.device, kernels: str) -> None:
    """Refuse a choice of kernels that cannot run here.

    Raises:
        LoweringError: If the device is no CUDA device, or none is present, or Triton is not installed.
    """
    remedy = "Take kernels='torch', which is exact on every device."
    if not interpreted():
        if device.type != "cuda":
            raise LoweringError(f"kernels='{kernels}': expected a CUDA device, got '{device}'. {remedy}")
        if not torch.cuda.is_available():
            raise LoweringError(f"kernels='{kernels}': PyTorch finds no CUDA device on this machine. {remedy}")
    try:
        import triton  # noqa: F401 - builds of PyTorch without CUDA come without it
    except ImportError as error:
        raise LoweringError(
            f"kernels='{kernels}': Triton is not installed. `pip install triton`, or: {remedy}"
        ) from error


def storage(params: QuantParams | None) -> torch.dtype:
    """What holds a tensor: one byte where that suffices, else what `prepared` takes: float32 to 16 bits, int32 beyond.

    Windows of 8 bits that are neither type's are int16.

    >>> storage(QuantParams.unsigned(4, 0.1)), storage(QuantParams.unsigned(8, 0.1)), storage(QuantParams.symmetric(16, 0.1))
    (torch.int8, torch.uint8, torch.float32)
    """
    if params is None or params.bit_width > 16:
        return torch.int32
    if params.quant_min >= -128 and params.quant_max <= 127:
        return torch.int8
    if params.quant_max - params.quant_min > 255:
        return torch.float32
    return torch.int16 if params.quant_min < 0 else torch.uint8


@singledispatch
def triton_op(op: Node, model: PreparedModel) -> Step:
    """How to compute one operation on tensors in `storage`."""
    raise NotImplementedError(f"no form for Triton of {type(op).__name__}")


@triton_op.register(Quantize)
@triton_op.register(ReciprocalQuantize)
@triton_op.register(IntegerAvgPool2d)
@triton_op.register(IntegerFloorAvgPool2d)
@triton_op.register(IntegerRequantize)
def as_prepared(op: Node, model: PreparedModel) -> Step:
    """The exact step of `prepared`, for what has no kernel."""
    step = prepare_op(op, model)
    kind = _stored(model, op.name)

    def converted(inputs: list[Tensor]) -> Tensor:
        return step([values.float() if _byte(values.dtype) else values for values in inputs]).to(kind)

    return converted


def _stored(model: PreparedModel, name: str) -> torch.dtype:
    return storage(model.model.formats.get(name))


def _byte(kind: torch.dtype) -> bool:
    """Whether it holds tensors of at most 8 bits, at any window."""
    return kind in (torch.int8, torch.uint8, torch.int16)


@triton_op.register(IntegerConv2d)
@triton_op.register(IntegerLinear)
def _(op: IntegerConv2d | IntegerLinear, model: PreparedModel) -> Step:
    layer = TritonLayer.of(op, model)
    if layer is None:
        return as_prepared(op, model)
    model.arithmetic[op.name] = f"triton {layer.products}"
    if isinstance(op, IntegerConv2d):
        return lambda inputs: layer(inputs[0])
    return lambda inputs: layer(inputs[0].reshape(*inputs[0].shape, 1, 1)).flatten(1)


class TritonLayer:
    """A convolution, or a matrix product as one of a single pixel, ready to be launched.

    Args:
        op: The layer.
        model: What it is a part of.
        products: `int8`, `shifted`, `bfloat16` or `float16`, or `depthwise`: see `triton_kernels`.
    """

    def __init__(self, op: IntegerConv2d | IntegerLinear, model: PreparedModel, products: str) -> None:
        from bitwright.integer.execution import triton_kernels  # Triton is not everywhere

        self.products, self.device = products, model.device
        self._kernel = triton_kernels.depthwise if products == "depthwise" else triton_kernels.convolution
        weight = op.weight if op.weight.ndim == 4 else op.weight[:, :, None, None]
        outputs, per_group, *size = weight.shape
        params = model.model.formats[op.inputs[0]]
        self._out = _stored(model, op.name)
        self._outputs = outputs
        self._window = (
            (size, op.stride, op.padding, op.dilation)
            if isinstance(op, IntegerConv2d)
            else (size, (1, 1), (0, 0), (1, 1))
        )
        if products == "depthwise":
            self._depth = 0
            stored = weight[:, 0].transpose(1, 2, 0).reshape(-1, outputs)
        else:
            depth = per_group * size[0] * size[1]
            self._block_k = _DEEPEST_BLOCK if depth >= _DEEPEST_BLOCK else _SMALLEST_BLOCK
            self._depth = -(-depth // self._block_k) * self._block_k
            stored = np.zeros((outputs, self._depth), dtype=np.int8)
            stored[:, :depth] = weight.transpose(0, 2, 3, 1).reshape(outputs, depth)
        self._offset = _offset(params) if products == "shifted" else 0
        bias = op.bias.astype(np.int64) + self._offset * _sums(weight)
        self._weight = self._on_device(stored)
        self._bias = self._on_device(bias.astype(np.int32))
        self._rescale(op, params, model)

    @classmethod
    def of(cls, op: IntegerConv2d | IntegerLinear, model: PreparedModel) -> TritonLayer | None:
        """The layer, or None where no kernel computes it exactly."""
        params = model.model.formats[op.inputs[0]]
        kind = storage(params)
        if not _byte(kind):
            return None
        groups = op.groups if isinstance(op, IntegerConv2d) else 1
        if groups > 1:
            return cls(op, model, "depthwise") if op.weight.shape[1] == 1 else None
        wanted = PRODUCTS[model.kernels]
        if wanted is not None and partial_sum_bound(op.weight, params) <= FLOAT32_EXACT:
            return cls(op, model, wanted)
        if kind is torch.int8:
            return cls(op, model, "int8")
        return cls(op, model, "shifted") if _shift_fits(op, _offset(params)) else None

    def _rescale(self, op: IntegerConv2d | IntegerLinear, params: QuantParams, model: PreparedModel) -> None:
        """Choose the arithmetic of requantization, and bring its constants to the device."""
        self._low = self._high = 0
        self._arithmetic = "none"
        self._multiplier = self._shift = self._bias
        if op.rescale is None:
            return
        self._low, self._high = op.rescale.low, op.rescale.high
        multipliers = op.rescale.multipliers
        if model.narrow(op.name) and proved(op.rescale, *accumulator_bounds(op.weight, op.bias, params)):
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
        _launch(
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


def _shift_fits(op: IntegerConv2d | IntegerLinear, offset: int) -> bool:
    """Whether sums of inputs from -128 to 127, and the bias that undoes the shift, stay within int32."""
    rows = np.abs(op.weight.reshape(len(op.weight), -1).astype(np.int64)).sum(1)
    bias = op.bias.astype(np.int64) + offset * _sums(op.weight)
    return bool((_INT8_MAGNITUDE * rows <= INT32_MAX).all() and (bias >= INT32_MIN).all() and (bias <= INT32_MAX).all())


def _launch(
    kernel: Callable[..., Any], tensors: tuple[Any, ...], sizes: tuple[int, ...], named: dict[str, Any]
) -> None:
    """Launch on the device of the first tensor. Multiplications and additions are never fused: that would round once."""
    device = tensors[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel(*tensors, *sizes, enable_fp_fusion=False, **named)


@triton_op.register
def _(op: IntegerAdd, model: PreparedModel) -> Step:
    if any(model.shapes[name] != op.shape for name in op.inputs):
        return as_prepared(op, model)
    from bitwright.integer.execution import triton_kernels  # Triton is not everywhere

    kind = _stored(model, op.name)
    half = (1 << op.shift) >> 1

    def step(inputs: list[Tensor]) -> Tensor:
        first, second = (_dense(values) for values in inputs)
        out = torch.empty_like(first, dtype=kind)
        grid = (-(-out.numel() // _ADDITION_BLOCK),)
        constants = (out.numel(), *op.multipliers, op.shift, half)
        _launch(
            triton_kernels.addition[grid],
            (first, second, out),
            constants,
            {"LOW": op.low, "HIGH": op.high, "BLOCK": _ADDITION_BLOCK, "num_warps": 4},
        )
        return out

    return step


def _dense(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last) if values.dim() == 4 else values.contiguous()


@triton_op.register
def _(op: Concat, model: PreparedModel) -> Step:
    return lambda inputs: torch.cat(inputs, 1)


@triton_op.register
def _(op: MaxPool2d, model: PreparedModel) -> Step:
    kind = _stored(model, op.name)
    # float16 holds the integers of 8 bits, and PyTorch pools no bytes on CUDA.
    pooled = torch.float16 if _byte(kind) else torch.float32
    if kind is torch.int32:
        return as_prepared(op, model)
    return lambda inputs: select(op, inputs[0].to(pooled)).to(kind)


@triton_op.register
def _(op: Move, model: PreparedModel) -> Step:
    return lambda inputs: select(op, inputs[0])
