# SPDX-License-Identifier: MIT
"""Integers of few bits as bytes: k-bit two's complement, bits contiguous, lowest bit first; or in whole bytes each."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import FileFormatError, LoweringError

PACKED_WIDTHS = (2, 3, 4, 5, 6, 7, 8, 16, 32)
_CHUNK = 2**20  # values at a time; a multiple of 8 values ends on a byte at every bit width


def packed_size_bytes(count: int, bit_width: int) -> int:
    """Bytes that `count` values of `bit_width` bits take: the last byte is filled up.

    >>> packed_size_bytes(3, 3)
    2
    """
    return -(-count * bit_width // 8)


def pack(values: npt.NDArray[np.integer[Any]], bit_width: int, signed: bool) -> npt.NDArray[np.uint8]:
    """Write integers one after the other, `bit_width` bits each.

    Value i takes the bits `i * bit_width` to `(i + 1) * bit_width - 1`, its lowest bit first, where bit j of the result
    is bit `j % 8` (of weight `2**(j % 8)`) of byte `j // 8`. Negative values are two's complement. Unused bits of the
    last byte are 0.

    Args:
        values: Integers of any shape, read in C order.
        bit_width: 2 to 8, 16 or 32.
        signed: Whether the range is [-2**(k-1), 2**(k-1) - 1] or [0, 2**k - 1].

    Returns:
        uint8 [ceil(count * bit_width / 8)].

    Raises:
        LoweringError: If a value does not fit, or the bit width is none of these.

    >>> pack(np.array([1, -1, -4]), 3, signed=True)  # 001, 111, 100, lowest bits first
    array([57,  1], dtype=uint8)
    """
    if bit_width not in PACKED_WIDTHS:
        raise LoweringError(f"expected a bit width of {', '.join(map(str, PACKED_WIDTHS))}, got {bit_width}.")
    if not np.issubdtype(values.dtype, np.integer):
        raise LoweringError(f"expected integers to pack, got {values.dtype}.")
    low, high = _range(bit_width, signed)
    if values.size and not (low <= int(values.min()) and int(values.max()) <= high):
        raise LoweringError(
            f"expected {'signed' if signed else 'unsigned'} {bit_width}-bit values within [{low}, {high}], "
            f"got {int(values.min())} to {int(values.max())}."
        )
    flat = values.ravel()
    if bit_width % 8 == 0:
        return np.frombuffer(flat.astype(_dtype(bit_width, signed)).tobytes(), np.uint8).copy()
    places = np.arange(bit_width, dtype=np.uint8)
    parts = [np.zeros(0, np.uint8)]
    for start in range(0, flat.size, _CHUNK):
        bits = (flat[start : start + _CHUNK].astype(np.uint8)[:, None] >> places) & 1  # modulo 256: two's complement
        parts.append(np.packbits(bits.ravel(), bitorder="little"))
    return np.concatenate(parts)


def unpack(
    packed: npt.NDArray[np.uint8], shape: int | Sequence[int], bit_width: int, signed: bool
) -> npt.NDArray[np.integer[Any]]:
    """Read back what `pack` wrote.

    Args:
        packed: uint8 [ceil(count * bit_width / 8)].
        shape: The shape of the values, or their count.
        bit_width: 2 to 8, 16 or 32.
        signed: As it was packed.

    Returns:
        Integers of the given shape, in the smallest of (u)int8, (u)int16 and (u)int32 that holds the bit width.

    Raises:
        FileFormatError: If the length is wrong, an unused bit is set, or the bit width is none of these.

    >>> unpack(np.array([57, 1], np.uint8), 3, 3, signed=True)
    array([ 1, -1, -4], dtype=int8)
    """
    if bit_width not in PACKED_WIDTHS:
        raise FileFormatError(f"expected a bit width of {', '.join(map(str, PACKED_WIDTHS))}, got {bit_width}.")
    dimensions = (shape,) if isinstance(shape, int) else tuple(shape)
    count = math.prod(dimensions)
    expected = packed_size_bytes(count, bit_width)
    if min(dimensions, default=0) < 0 or packed.dtype != np.uint8 or packed.shape != (expected,):
        raise FileFormatError(
            f"expected {expected} bytes for {count} values of {bit_width} bits (shape {dimensions}), "
            f"got {packed.dtype} of shape {packed.shape}. The file is truncated or was changed."
        )
    dtype = _dtype(bit_width, signed)
    if bit_width % 8 == 0:
        return np.frombuffer(packed.tobytes(), dtype).astype(dtype.newbyteorder("=")).reshape(dimensions)
    if count * bit_width % 8 and packed[-1] >> (count * bit_width % 8):
        raise FileFormatError("expected zeros in the unused bits of the last byte. The file was changed.")
    flat = np.empty(count, np.uint8)
    weights = (1 << np.arange(bit_width)).astype(np.uint8)
    for start in range(0, count, _CHUNK):
        stop = min(start + _CHUNK, count)
        chunk = packed[start * bit_width // 8 : packed_size_bytes(stop, bit_width)]
        bits = np.unpackbits(chunk, count=(stop - start) * bit_width, bitorder="little").reshape(-1, bit_width)
        flat[start:stop] = (bits * weights).sum(axis=1, dtype=np.uint8)
    if signed:
        # Move the sign bit to the top of the byte; the arithmetic shift back then copies it downwards.
        return ((flat << (8 - bit_width)).view(np.int8) >> (8 - bit_width)).reshape(dimensions)
    return flat.reshape(dimensions)


def pack_bytes(values: npt.NDArray[np.integer[Any]], signed: bool) -> npt.NDArray[np.uint8]:
    """Write integers with as few whole bytes each as hold them all, little-endian; negative ones as two's complement.

    Args:
        values: Shape [count], within int64; not negative unless `signed`.
        signed: Whether the top bit is a sign.

    Returns:
        uint8 [count, bytes], with 1 to 8 bytes.

    Raises:
        LoweringError: If a value is negative although `signed` is False.

    >>> pack_bytes(np.array([1, -2, 300]), signed=True)
    array([[  1,   0],
           [254, 255],
           [ 44,   1]], dtype=uint8)
    """
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    if low < 0 and not signed:
        raise LoweringError(f"expected values of at least 0 to pack unsigned, got {low}.")
    bits = max(high.bit_length(), (~low).bit_length()) + signed
    size = max(1, -(-bits // 8))
    rows = np.ascontiguousarray(values.astype("<i8")).view(np.uint8).reshape(-1, 8)
    return np.ascontiguousarray(rows[:, :size])


def unpack_bytes(packed: npt.NDArray[np.uint8], signed: bool) -> npt.NDArray[np.int64]:
    """Read back what `pack_bytes` wrote, as int64 [count].

    Raises:
        FileFormatError: If it is no uint8 array of 1 to 8 bytes for each value.

    >>> unpack_bytes(pack_bytes(np.array([1, -2, 300]), signed=True), signed=True)
    array([  1,  -2, 300])
    """
    if packed.dtype != np.uint8 or packed.ndim != 2 or not 1 <= packed.shape[1] <= 8:
        raise FileFormatError(f"expected 1 to 8 bytes for each value, got {packed.dtype} of shape {packed.shape}.")
    count, size = packed.shape
    rows = np.zeros((count, 8), np.uint8)
    rows[:, :size] = packed
    if signed:
        rows[:, size:] = np.where(packed[:, -1:] >= 128, 255, 0)  # the sign, continued
    return rows.view("<i8").reshape(count).astype(np.int64)


def _range(bit_width: int, signed: bool) -> tuple[int, int]:
    """The smallest and the largest value."""
    return (-(2 ** (bit_width - 1)), 2 ** (bit_width - 1) - 1) if signed else (0, 2**bit_width - 1)


def _dtype(bit_width: int, signed: bool) -> np.dtype[Any]:
    """The little-endian type of at least that many bits."""
    size = 1 if bit_width <= 8 else bit_width // 8
    return np.dtype(f"<{'i' if signed else 'u'}{size}")
