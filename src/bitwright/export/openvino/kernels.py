# SPDX-License-Identifier: MIT
"""Which of OpenVINO's kernels computes the sums of a layer exactly, on every CPU of the target."""

from __future__ import annotations

from math import prod

from bitwright.export.target import Target
from bitwright.graph.nodes import Node
from bitwright.integer.model import IntegerModel
from bitwright.integer.multipliers import INT32_MAX
from bitwright.integer.ops import IntegerConv2d, IntegerLayer
from bitwright.integer.proof.bounds import (
    FLOAT32_EXACT,
    SATURATING_SUM,
    largest_pair_sum,
    largest_sum,
    partial_sum_bound,
)
from bitwright.integer.proof.theorems import clamped_beyond_float32
from bitwright.integer.quant_params import QuantParams
from bitwright.quantizer.formats import TensorFormat
from bitwright.scheme import MAX_BITS

INT8, DOUBLED, FLOAT32, PARTS = "int8", "int8, doubled", "float32", "float32, in parts"


def kernel(op: IntegerLayer, model: IntegerModel, target: Target) -> str:
    """What a layer runs on.

    `INT8` where no two products of the target's kernels saturate; `DOUBLED` where halves of the weights cannot, each with
    an input of its own: both add in int32 and rescale in float32, which holds the sums, or those that are not clamped
    behind it (theorem C). Else, and where kernels for bytes misread a zero point, `FLOAT32`, where it holds every partial
    sum; else `PARTS` of the sum, added as int32.
    """
    params = model.formats[op.inputs[0]]
    exact = largest_sum(op.weight, op.bias, params) <= FLOAT32_EXACT
    misread = _misses_the_image(op, model) or _zero_point_in_groups(op, params)
    if params.bit_width <= MAX_BITS and not misread and _exact_in_bytes(op, params, exact):
        if target is Target.VNNI or not _saturates(op, params):
            return INT8
        if _groups(op) == 1:
            return DOUBLED
    return FLOAT32 if exact else PARTS


def _misses_the_image(op: IntegerLayer, model: IntegerModel) -> bool:
    """Whether all results are made of padding alone, as of an image of one column under a kernel of two with a gap between.

    There, kernels for bytes with a zero point give whatever their memory holds, on CPUs with AVX-512.
    """
    if not isinstance(op, IntegerConv2d):
        return False
    return any(
        all(not 0 <= place * step - before + tap * gap < size for place in range(places) for tap in range(taps))
        for size, places, step, before, gap, taps in zip(
            model.shape(op.inputs[0])[1:],
            op.shape[1:],
            op.stride,
            op.padding,
            op.dilation,
            op.weight.shape[2:],
            strict=True,
        )
    )


def _zero_point_in_groups(op: IntegerLayer, params: QuantParams) -> bool:
    """Whether bytes have a zero point in a grouped convolution whose channels in a group are no multiple of 4.

    On CPUs with AMX the kernel takes another sum off for that zero point, in groups of 17 results or more.
    """
    return _in_groups(op) and op.weight.shape[1] % 4 != 0 and least_byte(params) not in (0, -128)


def _exact_in_bytes(op: IntegerLayer, params: QuantParams, exact: bool) -> bool:
    """Whether kernels for bytes give the sums, or what is made of them.

    Where bytes have a zero point, float32 takes the sum over bytes as they are stored, before what the zero point adds is taken
    off. (The 128 that int8 is stored with is taken off in int32.)
    """
    if least_byte(params) in (0, -128):
        return exact or _clamped(op, params)
    return exact and partial_sum_bound(op.weight, params.stored) <= FLOAT32_EXACT


def _clamped(op: IntegerLayer, params: QuantParams) -> bool:
    """Whether all sums that float32 cannot hold are clamped after it, in every channel."""
    if op.rescale is None or partial_sum_bound(op.weight, params) > INT32_MAX:
        return False
    return bool(clamped_beyond_float32(op.rescale.multipliers, op.bias, op.rescale.low, op.rescale.high).all())


def _saturates(op: IntegerLayer, params: QuantParams) -> bool:
    """Whether two products can leave 16 bits; inputs that int8 holds are stored with 128 added, whatever their width."""
    in_int8 = least_byte(params) == -128
    stored = QuantParams(TensorFormat.starting(MAX_BITS, -128), params.scale) if in_int8 else params
    return largest_pair_sum(op.weight, stored) > SATURATING_SUM


def least_byte(params: QuantParams) -> int:
    """The integer that is stored as the least byte: 0 as that of uint8, -128 of int8, or that of the window."""
    window = params.format
    return -128 if window.negative and window.quant_min >= -128 and window.quant_max <= 127 else window.quant_min


def _groups(op: IntegerLayer) -> int:
    return op.groups if isinstance(op, IntegerConv2d) else 1


def may_be_matrix_products(op: Node) -> bool:
    """Whether a layer of bytes can run as matrix products, whose kernel misreads multipliers by channel where it takes them in.

    From the 9th channel on (the 17th with AVX-512) it multiplies by the first channel's, in each group of its own. OpenVINO
    2026.4.1 (oneDNN 3.13) runs grouped convolutions so where the channels of a group are no multiple of 4, on every CPU, and
    layers whose result is one pixel at batch 1 on CPUs with AVX-512. The others have kernels of their own.
    """
    return _in_groups(op) or prod(op.shape[1:]) == 1


def _in_groups(op: Node) -> bool:
    """Whether it is a grouped convolution whose groups have several channels (where they have one, it is made depthwise)."""
    return isinstance(op, IntegerConv2d) and op.groups > 1 and op.weight.shape[1] > 1
