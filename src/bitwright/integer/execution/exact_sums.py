# SPDX-License-Identifier: MIT
"""Sums of products of integers, exactly, on the fast kernels of PyTorch.

Three kernels add integers without an error, each under a condition that the actual weights decide:

- float32, while no partial sum can exceed 2**24, in whatever order the kernel adds;
- oneDNN's 8-bit kernels on x86, which add in int32 and return float32: under the same condition for the result and for the sum
  over inputs as stored, from zero up, which is rounded before a signed format's zero point is taken off; and where two products
  of uint8 and int8 cannot exceed 16 bits, unless the CPU has 8-bit dot products;
- float64, while no partial sum can exceed 2**53: always.

A layer whose sums are too long for float32 is cut along its input channels into parts that are not: two float32 kernels of half
the length take less than half the time of a float64 one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.integer.ops import IntegerConv2d, IntegerLayer
from bitwright.integer.proof.bounds import SATURATING_SUM, exact_parts, largest_pair_sum
from bitwright.integer.quant_params import QuantParams

Kernel = Callable[[Tensor], Tensor]
"""From float32 integers to their sums of products, bias included: float32 or float64, each exact."""

_TYPICAL_BATCH = 8
_INT8_MAGNITUDE = (
    2**8
)  # products of such integers are exact on every kernel, reduced precision (TF32, bfloat16) included


class ExactSums:
    """A layer's sums, ready to be computed on one device.

    Attributes:
        kernels: One for each part of the input channels; their results add up.
        kind: What computes them: `int8`, `float32` or `float64`.
    """

    def __init__(self, op: IntegerLayer, params: QuantParams, image: tuple[int, ...], device: torch.device) -> None:
        grouped = isinstance(op, IntegerConv2d) and op.groups > 1
        parts = None
        use_int8 = (
            not grouped and isinstance(op, IntegerConv2d) and device.type == "cpu" and int8_exact(op.weight, params)
        )
        if use_int8:
            parts = exact_parts(op.weight, op.bias, params, stored=True)
            use_int8 = parts is not None
        if parts is None and not _exceeds_byte(params):
            parts = exact_parts(op.weight, op.bias, params, whole=grouped)
        if parts is None:
            self.kind = "float64"
            self.kernels = [_float_kernel(op, op.weight, op.bias, image, device, torch.float64)]
            return
        self.kind = "int8" if use_int8 else "float32"
        self.kernels = []
        for start, stop in parts:
            weight = op.weight[:, start:stop]
            bias = op.bias if start == 0 else np.zeros_like(op.bias)
            if use_int8:
                assert isinstance(op, IntegerConv2d)
                kernel = _int8_kernel(op, weight, bias, params)
            else:
                kernel = _float_kernel(op, weight, bias, image, device, torch.float32)
            axis = 1 if isinstance(op, IntegerConv2d) else -1
            self.kernels.append(kernel if len(parts) == 1 else _on_part(kernel, axis, start, stop))

    def rounded(self, values: Tensor) -> Tensor:
        """Each sum as the float32 number nearest to it: the sum itself, up to 2**24."""
        first, *others = (kernel(values) for kernel in self.kernels)
        if len(others) == 1:
            return first.add_(others[0])  # two exact float32 numbers, added with one rounding
        if others:
            return _added(first, others).float()
        return first.float()

    def exact(self, values: Tensor) -> Tensor:
        """Each sum itself: in float32 where one kernel holds it, in float64 elsewhere."""
        first, *others = (kernel(values) for kernel in self.kernels)
        return _added(first, others) if others else first


def _added(first: Tensor, others: Sequence[Tensor]) -> Tensor:
    total = first.double()
    for other in others:
        total.add_(other)
    return total


def int8_exact(weight: npt.NDArray[np.int8], params: QuantParams) -> bool:
    """Whether oneDNN's 8-bit kernels add the products of these weights exactly on this CPU."""
    if params.quant_max - params.quant_min >= _INT8_MAGNITUDE or not _onednn():
        return False
    return largest_pair_sum(weight, params) <= SATURATING_SUM or _dot_products()


@cache
def _onednn() -> bool:
    """Whether this is an x86 CPU whose oneDNN has 8-bit convolutions that were seen to be exact within 16 bits."""
    flags = _capabilities()
    return bool(flags.get("avx2")) and torch._C._has_mkldnn and _probe(weight=64)


@cache
def _dot_products() -> bool:
    """Whether the CPU has 8-bit dot products, and oneDNN was seen to use them: environment variables can forbid it."""
    flags = _capabilities()
    return any(bool(flags.get(name)) for name in ("avx512_vnni", "avx_vnni")) and _probe(weight=127)


def _capabilities() -> dict[str, object]:
    found: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    return found


def _probe(weight: int) -> bool:
    """Whether the largest inputs and equal weights give the exact sum."""
    values = torch.full((1, 64, 8, 8), 255.0).contiguous(memory_format=torch.channels_last)
    weights = np.full((64, 64, 1, 1), weight, dtype=np.int8)
    try:
        sums = _packed_int8(weights, np.zeros(64, dtype=np.int32), 0, (1, 1), (0, 0), (1, 1), 1)(values)
    except (AttributeError, NotImplementedError, RuntimeError):  # another version of PyTorch
        return False
    return bool((sums == 64 * 255 * weight).all())


def _int8_kernel(
    op: IntegerConv2d, weight: npt.NDArray[np.int8], bias: npt.NDArray[np.int32], params: QuantParams
) -> Kernel:
    return _packed_int8(weight, bias, -params.quant_min, op.stride, op.padding, op.dilation, op.groups)


def _packed_int8(
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    zero_point: int,
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Kernel:
    """uint8 inputs with a zero point, int8 weights, int32 sums, returned as float32; all scales are 1."""
    ones = torch.ones(len(weight))
    zeros = torch.zeros(len(weight), dtype=torch.int64)
    offsets = torch.from_numpy(bias.astype(np.float32))
    window = list(stride), list(padding), list(dilation), groups
    packed = torch.ops.onednn.qconv_prepack(
        torch.from_numpy(np.ascontiguousarray(weight)), ones, 1.0, zero_point, *window, None
    )

    def kernel(values: Tensor) -> Tensor:
        stored = (values + zero_point if zero_point else values).to(torch.uint8)
        stored = stored.contiguous(memory_format=torch.channels_last)
        result: Tensor = torch.ops.onednn.qconv2d_pointwise(
            stored, 1.0, zero_point, packed, ones, zeros, offsets, *window, 1.0, 0, torch.float32, "none", [], ""
        )
        return result

    return kernel


def _float_kernel(
    op: IntegerLayer,
    weight: npt.NDArray[np.int8],
    bias: npt.NDArray[np.int32],
    image: tuple[int, ...],
    device: torch.device,
    kind: torch.dtype,
) -> Kernel:
    weights = torch.from_numpy(np.ascontiguousarray(weight)).to(device, kind)
    offsets = torch.from_numpy(np.array(bias)).to(device, kind)
    if not isinstance(op, IntegerConv2d):
        return lambda values: F.linear(values.to(kind), weights, offsets)
    weights = weights.contiguous(memory_format=torch.channels_last)
    window = op.stride, op.padding, op.dilation, op.groups
    if device.type == "cpu" and kind is torch.float32 and torch._C._has_mkldnn:
        return _packed_float32(weights, offsets, (_TYPICAL_BATCH, weights.shape[1] * op.groups, *image[1:]), *window)

    def kernel(values: Tensor) -> Tensor:
        # cuDNN may choose Winograd's algorithm, whose transforms have fractions; PyTorch's own kernels add products.
        with torch.backends.cudnn.flags(enabled=False):
            return F.conv2d(values.to(kind), weights, offsets, *window)

    return kernel


def _packed_float32(
    weight: Tensor,
    bias: Tensor,
    shape: tuple[int, ...],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    groups: int,
) -> Kernel:
    """A direct convolution by oneDNN, its weights in the layout that it likes best for images of a shape."""
    window = list(padding), list(stride), list(dilation), groups
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *window, list(shape))

    def kernel(values: Tensor) -> Tensor:
        result: Tensor = torch.ops.mkldnn._convolution_pointwise(
            values.contiguous(memory_format=torch.channels_last), packed, bias, *window, "none", [], ""
        )
        return result

    return kernel


def _exceeds_byte(params: QuantParams) -> bool:
    """Whether inputs are too large for products that every float32 kernel computes exactly."""
    return max(params.quant_max, -params.quant_min) > _INT8_MAGNITUDE


def _on_part(kernel: Kernel, axis: int, start: int, stop: int) -> Kernel:
    return lambda values: kernel(values.narrow(axis, start, stop - start))
