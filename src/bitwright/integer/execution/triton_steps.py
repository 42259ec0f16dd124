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

import torch
from torch import Tensor

from bitwright.errors import LoweringError
from bitwright.graph.nodes import Node
from bitwright.integer.execution.prepared import PreparedModel, Step, prepare_op
from bitwright.integer.ops import (
    IntegerAdd,
)
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
    advice = "Take kernels='torch', which is exact on every device."
    if not interpreted():
        if device.type != "cuda":
            raise LoweringError(f"kernels='{kernels}': expected a CUDA device, got '{device}'. {advice}")
        if not torch.cuda.is_available():
            raise LoweringError(f"kernels='{kernels}': PyTorch finds no CUDA device on this machine. {advice}")
    try:
        import triton  # noqa: F401 - builds of PyTorch without CUDA come without it
    except ImportError as error:
        raise LoweringError(
            f"kernels='{kernels}': Triton is not installed. `pip install triton`, or: {advice}"
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


def as_prepared(op: Node, model: PreparedModel) -> Step:
    """The exact step of `prepared`, for what has no kernel."""
    step = prepare_op(op, model)
    kind = storage_of(op.name, model)

    def converted(inputs: list[Tensor]) -> Tensor:
        return step([values.float() if fits_a_byte(values.dtype) else values for values in inputs]).to(kind)

    return converted


def storage_of(name: str, model: PreparedModel) -> torch.dtype:
    """The type that holds a tensor."""
    return storage(model.model.formats.get(name))


def fits_a_byte(kind: torch.dtype) -> bool:
    """Whether a type holds tensors of at most 8 bits, at any window."""
    return kind in (torch.int8, torch.uint8, torch.int16)


def launch(kernel: Callable[..., Any], tensors: tuple[Any, ...], sizes: tuple[int, ...], named: dict[str, Any]) -> None:
    """Launch on the device of the first tensor. Multiplications and additions are never fused: that would round once."""
    device = tensors[0].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel(*tensors, *sizes, enable_fp_fusion=False, **named)


def add_on_triton(op: IntegerAdd, model: PreparedModel) -> Step:
    """The sum of two tensors of one shape, in int64."""
    from bitwright.integer.execution import triton_kernels  # Triton is not everywhere

    kind = storage_of(op.name, model)
    half = (1 << op.shift) >> 1

    def step(inputs: list[Tensor]) -> Tensor:
        first, second = (_dense(values) for values in inputs)
        out = torch.empty_like(first, dtype=kind)
        grid = (-(-out.numel() // _ADDITION_BLOCK),)
        constants = (out.numel(), *op.multipliers, op.shift, half)
        launch(
            triton_kernels.addition[grid],
            (first, second, out),
            constants,
            {"LOW": op.low, "HIGH": op.high, "BLOCK": _ADDITION_BLOCK, "num_warps": 4},
        )
        return out

    return step


def _dense(values: Tensor) -> Tensor:
    return values.contiguous(memory_format=torch.channels_last) if values.dim() == 4 else values.contiguous()
