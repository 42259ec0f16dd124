# SPDX-License-Identifier: MIT
"""Tiny networks in the arithmetic of the published models, at its extremes."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import numpy.typing as npt

from bitwright.integer import IntegerModel, Multipliers, QuantParams
from bitwright.integer.multipliers import INT32_MAX, INT32_MIN
from bitwright.integer.ops import IntegerAdd, IntegerConv2d, IntegerFloorAvgPool2d, ReciprocalQuantize, Rescale
from bitwright.integer.outputs import single_output
from bitwright.scheme import Precision, Scheme

BYTE, WIDE = QuantParams.symmetric(8, 0.01), QuantParams.symmetric(32, 1.0)
ONCE = {"stride": (1, 1), "padding": (0, 0)}


def constants(
    bias: npt.NDArray[np.int32], multipliers: Multipliers, *, low: int = INT32_MIN, high: int = INT32_MAX
) -> IntegerModel:
    """A network whose accumulators are the biases, whatever the image of one pixel."""
    channels = len(bias)
    common = {"shape": (channels, 1, 1), "place": ""}
    ops = (
        ReciprocalQuantize(name="input", inputs=(), shape=(1, 1, 1), place="", scale=0.01, low=-128, high=127),
        IntegerConv2d(
            name="conv", inputs=("input",), rescale=Rescale(multipliers, low, high), weight_bits=8, bias=bias,
            weight=np.zeros((channels, 1, 1, 1), np.int8), dilation=(1, 1), groups=1, **ONCE, **common,
        ),
    )  # fmt: skip
    formats = {"input": BYTE, "conv": WIDE}
    scheme = Scheme.uniform(["conv"], Precision(8, 8))
    return IntegerModel("constants", scheme, ops, formats, single_output("conv"))


def near_halves(count: int) -> tuple[npt.NDArray[np.int64], Multipliers]:
    """Accumulators whose products with 31-bit multipliers lie next to a half, nearer than float64 can tell."""
    generator = np.random.default_rng(0)
    found: list[tuple[int, int, int]] = []
    while len(found) < count:
        b, c = int(generator.integers(2**30, 2**31)) | 1, int(generator.integers(28, 32))
        distance = int(generator.integers(-40, 41))
        value = (2 ** (c - 1) + distance) * pow(b, -1, 2**c) % 2**c  # value * b is a half and `distance` more, modulo 1
        signed = value - 2**c if value >= 2**31 or (generator.integers(2) and value - 2**c >= -(2**31)) else value
        if abs(signed) > 2**27:
            found.append((signed, b, c))
    accumulators, b, c = (np.array(column) for column in zip(*found, strict=True))
    return accumulators, Multipliers(b, c.astype(np.int32))


def exactly(accumulators: npt.NDArray[np.int64], multipliers: Multipliers) -> list[int]:
    """Halves to even, in rational numbers."""
    rows = zip(accumulators.tolist(), multipliers.multiplier.tolist(), multipliers.shift.tolist(), strict=True)
    return [round(Fraction(value * b, 1 << c)) for value, b, c in rows]


def tail(side: int, kernel: int, *, shift: int = 0) -> IntegerModel:
    """An unclamped sum, added to itself, and its mean."""
    scheme = Scheme.uniform(["conv"], Precision(8, 8))
    shape = (2, side, side)
    ratio = Multipliers(np.array([2**31 - 1, 3]), np.array([22, 0]))
    ops = (
        ReciprocalQuantize(name="input", inputs=(), shape=(1, side, side), place="", scale=0.01, low=-128, high=127),
        IntegerConv2d(
            name="conv", inputs=("input",), rescale=Rescale(ratio, INT32_MIN, INT32_MAX), weight_bits=4,
            bias=np.array([3, -2], np.int32), weight=np.array([-8, 7], np.int8).reshape(2, 1, 1, 1), dilation=(1, 1),
            groups=1, shape=shape, place="", **ONCE,
        ),
        IntegerAdd(
            name="sum", inputs=("conv", "conv"), shape=shape, place="", multipliers=(1, 3), shift=shift,
            low=0, high=INT32_MAX,
        ),
        IntegerFloorAvgPool2d(
            name="mean", inputs=("sum",), shape=(2, side - kernel + 1, side - kernel + 1), place="",
            kernel=(kernel, kernel), **ONCE,
        ),
    )  # fmt: skip
    formats = {"input": BYTE, "conv": WIDE, "sum": WIDE, "mean": WIDE}
    return IntegerModel("tail", scheme, ops, formats, single_output("mean"))
