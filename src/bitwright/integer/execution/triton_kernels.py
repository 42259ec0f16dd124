# SPDX-License-Identifier: MIT
"""Convolutions and additions of integers on the tensor cores of a GPU, written in Triton; import this only where Triton is.

Tensors are dense in channels-last order, one byte for a value of up to eight bits. A convolution is one product of matrices that
are never built: row m of the first is the window of output pixel m, column n of the second the weights of output channel n. Sums
are int32, and leave the kernel requantized: bias, multiplier, rounding and clamp happen in registers.

Tensor cores multiply int8 by int8. An unsigned input of eight bits is therefore read as `a - 128`, which is one flipped bit, and
the bias holds `128 * sum(weights)` in return. A zero of the padding becomes -128 like any other zero: borders are no exception.
Other windows of eight bits are stored in int16 and read as `a - offset`, with the offset that brings them to [-128, 127].

With `TRITON_INTERPRET=1` set before this module is imported, all of it runs on the CPU, slowly.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _half_even(values, shift, half):
    """`values / 2**shift` in int64, halves to even; `half` is `2**shift / 2`, or 0 where the shift is."""
    floor = values >> shift
    rest = values - (floor << shift)
    up = (rest > half) | ((rest == half) & (half > 0) & ((floor & 1) == 1))
    return floor + up.to(tl.int64)


@triton.jit
def _finished(sums, multiplier, shift, columns, inside, LOW: tl.constexpr, HIGH: tl.constexpr, RESCALE: tl.constexpr):
    """int32 sums [BLOCK_M, BLOCK_N] as they are (`none`), or requantized in the arithmetic that `RESCALE` names."""
    if RESCALE == "float32":
        ratio = tl.load(multiplier + columns, mask=inside, other=0.0)
        # The clamp stands between the product and the sum, so that no compiler can make one rounding of the two.
        scaled = tl.minimum(tl.maximum(sums.to(tl.float32) * ratio[None, :], float(LOW)), float(HIGH))
        # 1.5 * 2**23: the sum's last bit is worth 1, so adding it rounds, halves to even.
        sums = ((scaled + 12582912.0) - 12582912.0).to(tl.int32)
    if RESCALE == "int64":
        factor = tl.load(multiplier + columns, mask=inside, other=1)
        bits = tl.load(shift + columns, mask=inside, other=0)
        half = ((bits * 0 + 1) << bits) >> 1
        scaled = _half_even(sums.to(tl.int64) * factor[None, :], bits[None, :], half[None, :])
        sums = tl.minimum(tl.maximum(scaled, LOW), HIGH).to(tl.int32)
    return sums


@triton.jit
def convolution(
    values,
    weight,
    bias,
    multiplier,
    shift,
    out,
    rows,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    OUT_CHANNELS: tl.constexpr,
    KERNEL_HEIGHT: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    STRIDE_Y: tl.constexpr,
    STRIDE_X: tl.constexpr,
    PADDING_Y: tl.constexpr,
    PADDING_X: tl.constexpr,
    DILATION_Y: tl.constexpr,
    DILATION_X: tl.constexpr,
    LOW: tl.constexpr,
    HIGH: tl.constexpr,
    RESCALE: tl.constexpr,
    PRODUCTS: tl.constexpr,
    OFFSET: tl.constexpr,
    STORED_DEPTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Convolution with one group. `weight` is int8 [OUT_CHANNELS, STORED_DEPTH], taps outside, channels inside, zeros at the end.

    `PRODUCTS` is `int8` for inputs that are, `shifted` for others of eight bits, `bfloat16` or `float16` for either.
    """
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    image = (row // (OUT_HEIGHT * OUT_WIDTH)).to(tl.int64)
    pixel = row % (OUT_HEIGHT * OUT_WIDTH)
    top = pixel // OUT_WIDTH * STRIDE_Y - PADDING_Y
    left = pixel % OUT_WIDTH * STRIDE_X - PADDING_X
    lane = tl.arange(0, BLOCK_K)
    in_float: tl.constexpr = PRODUCTS == "bfloat16" or PRODUCTS == "float16"
    factor_type: tl.constexpr = tl.bfloat16 if PRODUCTS == "bfloat16" else tl.float16
    sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32 if in_float else tl.int32)
    for start in range(0, STORED_DEPTH, BLOCK_K):
        depth = start + lane
        if CHANNELS % BLOCK_K == 0:  # one tap: neighbouring channels, which load in wide words
            tap = tl.full((BLOCK_K,), start // CHANNELS, tl.int32)
            channel = start % CHANNELS + lane
        else:
            tap = depth // CHANNELS
            channel = depth % CHANNELS
        y = top[:, None] + (tap // KERNEL_WIDTH * DILATION_Y)[None, :]
        x = left[:, None] + (tap % KERNEL_WIDTH * DILATION_X)[None, :]
        inside = (row < rows)[:, None] & (depth < KERNEL_HEIGHT * KERNEL_WIDTH * CHANNELS)[None, :]
        inside = inside & (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
        where = ((image[:, None] * HEIGHT + y) * WIDTH + x) * CHANNELS + channel[None, :]
        window = tl.load(values + where, mask=inside, other=0)
        stored = weight + column[None, :] * STORED_DEPTH + depth[:, None]
        factors = tl.load(stored, mask=(column < OUT_CHANNELS)[None, :], other=0)
        if in_float:
            sums = tl.dot(window.to(factor_type), factors.to(factor_type), sums)
        elif PRODUCTS == "shifted":
            signed = (
                (window ^ 128).to(tl.int8, bitcast=True) if window.dtype == tl.uint8 else (window - OFFSET).to(tl.int8)
            )
            sums = tl.dot(signed, factors, sums, out_dtype=tl.int32)
        else:
            sums = tl.dot(window, factors, sums, out_dtype=tl.int32)
    total = sums.to(tl.int32) + tl.load(bias + column, mask=column < OUT_CHANNELS, other=0)[None, :]
    total = _finished(total, multiplier, shift, column, column < OUT_CHANNELS, LOW, HIGH, RESCALE)
    place = row.to(tl.int64)[:, None] * OUT_CHANNELS + column[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=(row < rows)[:, None] & (column < OUT_CHANNELS)[None, :])


@triton.jit
def depthwise(
    values,
    weight,
    bias,
    multiplier,
    shift,
    out,
    rows,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUT_HEIGHT: tl.constexpr,
    OUT_WIDTH: tl.constexpr,
    OUT_CHANNELS: tl.constexpr,
    KERNEL_HEIGHT: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    STRIDE_Y: tl.constexpr,
    STRIDE_X: tl.constexpr,
    PADDING_Y: tl.constexpr,
    PADDING_X: tl.constexpr,
    DILATION_Y: tl.constexpr,
    DILATION_X: tl.constexpr,
    LOW: tl.constexpr,
    HIGH: tl.constexpr,
    RESCALE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Convolution with one group for each input channel. `weight` is int8 [KERNEL_HEIGHT * KERNEL_WIDTH, OUT_CHANNELS]."""
    row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    image = (row // (OUT_HEIGHT * OUT_WIDTH)).to(tl.int64)
    pixel = row % (OUT_HEIGHT * OUT_WIDTH)
    top = pixel // OUT_WIDTH * STRIDE_Y - PADDING_Y
    left = pixel % OUT_WIDTH * STRIDE_X - PADDING_X
    source = column // (OUT_CHANNELS // CHANNELS)
    known = column < OUT_CHANNELS
    sums = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.int32)
    for tap in range(KERNEL_HEIGHT * KERNEL_WIDTH):
        y = top + tap // KERNEL_WIDTH * DILATION_Y
        x = left + tap % KERNEL_WIDTH * DILATION_X
        inside = (row < rows) & (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
        where = (((image * HEIGHT + y) * WIDTH + x) * CHANNELS)[:, None] + source[None, :]
        window = tl.load(values + where, mask=inside[:, None] & known[None, :], other=0)
        factors = tl.load(weight + tap * OUT_CHANNELS + column, mask=known, other=0)
        sums += window.to(tl.int32) * factors.to(tl.int32)[None, :]
    total = sums + tl.load(bias + column, mask=known, other=0)[None, :]
    total = _finished(total, multiplier, shift, column, known, LOW, HIGH, RESCALE)
    place = row.to(tl.int64)[:, None] * OUT_CHANNELS + column[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=(row < rows)[:, None] & known[None, :])


@triton.jit
def addition(
    first,
    second,
    out,
    count,
    first_multiplier,
    second_multiplier,
    shift,
    half,
    LOW: tl.constexpr,
    HIGH: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """`clamp(round_half_even((first * first_multiplier + second * second_multiplier) / 2**shift))` in int64."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    one = tl.load(first + place, mask=inside, other=0).to(tl.int64)
    other = tl.load(second + place, mask=inside, other=0).to(tl.int64)
    total = _half_even(one * first_multiplier + other * second_multiplier, shift, half)
    total = tl.minimum(tl.maximum(total, LOW), HIGH)
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside)
