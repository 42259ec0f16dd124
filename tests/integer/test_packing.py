# SPDX-License-Identifier: MIT
"""Packed integers: a literal twin, round trips, and refusals."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitwright.errors import FileFormatError, LoweringError
from bitwright.integer import packing
from bitwright.integer.packing import PACKED_WIDTHS, pack, pack_bytes, packed_size_bytes, unpack, unpack_bytes


def limits(bit_width: int, signed: bool) -> tuple[int, int]:
    """The smallest and the largest value of a bit width."""
    return (-(2 ** (bit_width - 1)), 2 ** (bit_width - 1) - 1) if signed else (0, 2**bit_width - 1)


def literal_pack(values: list[int], bit_width: int) -> list[int]:
    """One big number, value i at bit i * bit_width, cut into bytes from the lowest."""
    number = sum((value % 2**bit_width) << (index * bit_width) for index, value in enumerate(values))
    return list(number.to_bytes(-(-len(values) * bit_width // 8), "little"))


@st.composite
def packable(draw: st.DrawFn) -> tuple[list[int], int, bool]:
    """Values that fit, their bit width, and whether it is signed."""
    bit_width, signed = draw(st.sampled_from(PACKED_WIDTHS)), draw(st.booleans())
    return draw(st.lists(st.integers(*limits(bit_width, signed)), max_size=70)), bit_width, signed


@given(packable())
def test_pack_is_the_literal_twin_and_unpack_its_inverse(case: tuple[list[int], int, bool]) -> None:
    """Packing is writing one big number; unpacking gives the values back."""
    values, bit_width, signed = case
    packed = pack(np.array(values, np.int64), bit_width, signed)
    assert packed.dtype == np.uint8
    assert packed.tolist() == literal_pack(values, bit_width)
    assert packed.size == packed_size_bytes(len(values), bit_width)
    restored = unpack(packed, len(values), bit_width, signed)
    assert restored.tolist() == values
    assert (restored.dtype.kind == "i") == signed


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bit_width", PACKED_WIDTHS)
def test_round_trip_over_chunks(bit_width: int, signed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the work is cut into chunks, no bit moves."""
    monkeypatch.setattr(packing, "_CHUNK", 64)
    low, high = limits(bit_width, signed)
    values = np.random.default_rng(bit_width).integers(low, high + 1, (5, 7, 3, 3))
    packed = pack(values, bit_width, signed)
    assert packed.tolist() == literal_pack(values.ravel().tolist(), bit_width)
    assert np.array_equal(unpack(packed, values.shape, bit_width, signed), values)


def test_order_of_a_transposed_array_is_that_of_its_indices() -> None:
    """How an array lies in memory does not matter."""
    values = np.arange(6).reshape(2, 3).T
    assert np.array_equal(unpack(pack(values, 4, False), (3, 2), 4, False), values)


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bit_width", PACKED_WIDTHS)
def test_pack_refuses_values_out_of_range(bit_width: int, signed: bool) -> None:
    """One step beyond either end is refused, never wrapped."""
    low, high = limits(bit_width, signed)
    for wrong in (low - 1, high + 1):
        with pytest.raises(LoweringError, match=f"{bit_width}-bit values within"):
            pack(np.array([0, wrong]), bit_width, signed)


def test_pack_refuses_floats_and_bit_widths() -> None:
    """Only integers are packed, and only at the listed widths."""
    with pytest.raises(LoweringError, match="expected integers to pack, got float64"):
        pack(np.zeros(3), 4, True)
    with pytest.raises(LoweringError, match="bit width of 2, 3, 4, 5, 6, 7, 8, 16, 32, got 9"):
        pack(np.zeros(3, np.int64), 9, True)


@pytest.mark.parametrize(
    ("packed", "shape"),
    [
        (np.zeros(2, np.uint8), 3 * 3),  # truncated
        (np.zeros(6, np.uint8), (3, 3)),  # too long
        (np.zeros(5, np.int8), (3, 3)),  # another type
        (np.zeros((1, 5), np.uint8), (3, 3)),  # another shape
        (np.zeros(5, np.uint8), (-3, -3)),  # no shape
    ],
)
def test_unpack_refuses_wrong_lengths(packed: npt.NDArray[np.uint8], shape: int | tuple[int, ...]) -> None:
    """Bytes of another number, type or shape are no packed values."""
    with pytest.raises(FileFormatError, match="expected 5 bytes for 9 values of 4 bits"):
        unpack(packed, shape, 4, True)


def test_unpack_refuses_bit_widths_and_set_padding() -> None:
    """A changed width or a set unused bit is noticed."""
    with pytest.raises(FileFormatError, match="got 1"):
        unpack(np.zeros(1, np.uint8), 8, 1, False)
    with pytest.raises(FileFormatError, match="unused bits"):
        unpack(np.array([0, 0x10], np.uint8), 3, 4, True)
    assert unpack(np.array([0, 0x0F], np.uint8), 3, 4, True).tolist() == [0, 0, -1]


def test_nothing_packs_to_nothing() -> None:
    """Empty tensors keep their shape."""
    assert pack(np.zeros((0, 3), np.int64), 3, True).shape == (0,)
    assert unpack(np.zeros(0, np.uint8), (0, 3), 3, True).shape == (0, 3)


@given(st.booleans(), st.data())
def test_whole_bytes(signed: bool, data: st.DataObject) -> None:
    """Values come back, in the least number of bytes that Python itself can write them in."""
    bits = data.draw(st.integers(1, 63))
    low = -(2 ** (bits - 1)) if signed else 0
    values = data.draw(st.lists(st.integers(low, 2 ** (bits - signed) - 1), max_size=20))
    packed = pack_bytes(np.array(values, np.int64), signed)
    assert unpack_bytes(packed, signed).tolist() == values
    size = packed.shape[1]
    assert packed.tobytes() == b"".join(value.to_bytes(size, "little", signed=signed) for value in values)
    if size > 1:
        with pytest.raises(OverflowError):
            [value.to_bytes(size - 1, "little", signed=signed) for value in values]


def test_whole_bytes_refusals() -> None:
    """Negative values need a sign, and packed bytes have two axes."""
    with pytest.raises(LoweringError, match="at least 0 to pack unsigned, got -1"):
        pack_bytes(np.array([3, -1]), signed=False)
    for damaged in (np.zeros(3, np.uint8), np.zeros((3, 9), np.uint8), np.zeros((3, 1), np.int8)):
        with pytest.raises(FileFormatError, match="expected 1 to 8 bytes for each value"):
            unpack_bytes(damaged, signed=True)
