# SPDX-License-Identifier: MIT
"""Dot products of short vectors, in the fastest exact form of the CPU.

*Words*: two products of int16, summed in int32 (`vpmaddwd` on x86), exact for all operands that occur.
*Bytes*: two products of uint8 and int8, summed in int16 (`vpmaddubsw` on x86 with AVX2): twice as many at a time, and exact
while no sum leaves int16, which a layer's own weights decide.
*Dots*: four products of uint8 and int8, summed in int32 (`vpdpbusd` on x86 with AVX-512 VNNI): each product has 16 bits and is
widened before it is added, so nothing saturates, whatever the weights.

And entries of a table: bytes chosen by bytes from registers (`vpermi2b` on x86 with AVX-512 VBMI), 64 at a time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from bitwright.export.tvm.kernels.script import Buffer, Expr, T, cast, load, number, tirx

LANES = 8
"""int32 sums in one vector."""
DOT_LANES = 16
"""int32 sums in one vector of dot products."""
CHOICES = 64
"""Bytes in one vector of those that are chosen."""


class Dots(StrEnum):
    """Who computes dot products: nobody, one instruction, or plain arithmetic that means the same, for tests on any CPU."""

    NONE = "none"
    VNNI = "vnni"
    PLAIN = "plain"


class Choices(StrEnum):
    """Who chooses entries of a table of bytes: a load for each, an instruction, or loads in its place, for tests on any CPU."""

    NONE = "none"
    VBMI = "vbmi"
    PLAIN = "plain"


@dataclass(frozen=True)
class Instructions:
    """What the target's CPU has.

    Attributes:
        avx2: x86's 256-bit integer instructions.
        dots: Its 512-bit dot products of bytes.
        choices: Its 512-bit choices of bytes from two registers.
    """

    avx2: bool
    dots: Dots = Dots.NONE
    choices: Choices = Choices.NONE

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

    def chosen(self, table: Buffer, places: Expr) -> Expr:
        """uint8 [64] from a table of 256 bytes and uint8 [64].

        An instruction chooses from 128 by seven bits of each place; the eighth says which of the halves is meant.
        """
        assert self.choices is not Choices.NONE
        if self.choices is Choices.PLAIN:
            return table[cast(places, "int32", CHOICES)]
        quarters = [load(table, number(first), lanes=CHOICES) for first in range(0, 4 * CHOICES, CHOICES)]
        low, high = (
            T.call_llvm_pure_intrin("uint8x64", "llvm.x86.avx512.vpermi2var.qi.512", first, places, second)
            for first, second in (quarters[:2], quarters[2:])
        )
        return tirx.Select(places < number(2 * CHOICES, "uint8", CHOICES), low, high)

    def widened(self, sums: Expr) -> Expr:
        """int32 [8] from int16 [16]: sums of neighbours."""
        return self.words(sums, number(1, "int16", 2 * LANES))


def repeated(values: Expr, dtype: str, lanes: int = LANES) -> Expr:
    """32 bits of values (int16 [2] or uint8 [4]) in every one of the lanes."""
    elements = 2 * lanes if dtype == "int16" else 4 * lanes
    return T.reinterpret(f"{dtype}x{elements}", T.broadcast(T.reinterpret("int32", values), lanes))
