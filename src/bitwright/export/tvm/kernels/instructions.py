# SPDX-License-Identifier: MIT
"""Dot products of short vectors, in the fastest exact form of the CPU.

*Words*: two products of int16, summed in int32 (`vpmaddwd` on x86), exact for all operands that occur.
*Bytes*: two products of uint8 and int8, summed in int16 (`vpmaddubsw` on x86 with AVX2): twice as many at a time, and exact
while no sum leaves int16, which a layer's own weights decide.
*Dots*: four products of uint8 and int8, summed in int32 (`vpdpbusd` on x86 with AVX-512 VNNI): each product has 16 bits and is
widened before it is added, so nothing saturates, whatever the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bitwright.export.tvm.kernels.script import Expr, T, cast, number, tirx

LANES = 8
"""int32 sums in one vector."""
DOT_LANES = 16
"""int32 sums in one vector of dot products."""


class Dots(StrEnum):
    """Who computes dot products: nobody, one instruction, or plain arithmetic that means the same, for tests on any CPU."""

    NONE = "none"
    VNNI = "vnni"
    PLAIN = "plain"


@dataclass(frozen=True)
class Instructions:
    """What the target's CPU has.

    Attributes:
        avx2: x86's 256-bit integer instructions.
        dots: Its 512-bit dot products of bytes.
    """

    avx2: bool
    dots: Dots = Dots.NONE

    def described(self) -> str:
        """In words, for the file."""
        if self.dots is not Dots.NONE:
            return (
                "AVX-512 VNNI dot products of bytes" if self.dots is Dots.VNNI else "dot products in plain arithmetic"
            )
        return "AVX2 words, and bytes where sums fit int16" if self.avx2 else "whatever LLVM makes of words"

    def words(self, values: Expr, weights: Expr) -> Expr:
        """int32 [8] from int16 [16] and int16 [16]: sums of neighbouring products."""
        if self.avx2:
            return T.call_llvm_pure_intrin("int32x8", "llvm.x86.avx2.pmadd.wd", values, weights)
        even, odd = list(range(0, 2 * LANES, 2)), list(range(1, 2 * LANES, 2))
        parts = [
            cast(tirx.Shuffle([values], places), "int32", LANES) * cast(tirx.Shuffle([weights], places), "int32", LANES)
            for places in (even, odd)
        ]
        return parts[0] + parts[1]

    def bytes(self, values: Expr, weights: Expr) -> Expr:
        """int16 [16] from uint8 [32] and int8 [32]: sums of neighbouring products, which must fit."""
        assert self.avx2
        return T.call_llvm_pure_intrin("int16x16", "llvm.x86.avx2.pmadd.ub.sw", values, weights)

    def added_dots(self, sums: Expr, values: Expr, weights: Expr) -> Expr:
        """int32 [16] plus the sums of four neighbouring products each of uint8 [64] and int8 [64]."""
        assert self.dots is not Dots.NONE
        if self.dots is Dots.VNNI:
            return T.call_llvm_pure_intrin("int32x16", "llvm.x86.avx512.vpdpbusd.512", sums, values, weights)
        for place in range(4):
            chosen = list(range(place, 4 * DOT_LANES, 4))
            parts = [cast(tirx.Shuffle([operand], chosen), "int32", DOT_LANES) for operand in (values, weights)]
            sums = sums + parts[0] * parts[1]
        return sums

    def widened(self, sums: Expr) -> Expr:
        """int32 [8] from int16 [16]: sums of neighbours."""
        return self.words(sums, number(1, "int16", 2 * LANES))


def repeated(values: Expr, dtype: str, lanes: int = LANES) -> Expr:
    """32 bits of values (int16 [2] or uint8 [4]) in every one of the lanes."""
    elements = 2 * lanes if dtype == "int16" else 4 * lanes
    return T.reinterpret(f"{dtype}x{elements}", T.broadcast(T.reinterpret("int32", values), lanes))
