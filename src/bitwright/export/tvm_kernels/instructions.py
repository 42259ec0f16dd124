# SPDX-License-Identifier: MIT
"""Dot products of short vectors, in the fastest exact form of the CPU.

*Words*: two products of int16, summed in int32 (`vpmaddwd` on x86), exact for all operands that occur.
*Bytes*: two products of uint8 and int8, summed in int16 (`vpmaddubsw` on x86 with AVX2): twice as many at a time, and exact
while no sum leaves int16, which a layer's own weights decide.
"""

from __future__ import annotations

from dataclasses import dataclass

from bitwright.export.tvm_kernels.script import Expr, T, cast, number, tirx

LANES = 8
"""int32 sums in one vector."""


@dataclass(frozen=True)
class Instructions:
    """What the target's CPU has.

    Attributes:
        avx2: x86's 256-bit integer instructions.
    """

    avx2: bool

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

    def widened(self, sums: Expr) -> Expr:
        """int32 [8] from int16 [16]: sums of neighbours."""
        return self.words(sums, number(1, "int16", 2 * LANES))


def repeated(values: Expr, dtype: str) -> Expr:
    """32 bits of values (int16 [2] or uint8 [4]) in every one of the eight lanes."""
    lanes = 2 * LANES if dtype == "int16" else 4 * LANES
    return T.reinterpret(f"{dtype}x{lanes}", T.broadcast(T.reinterpret("int32", values), LANES))
