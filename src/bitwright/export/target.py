# SPDX-License-Identifier: MIT
"""The CPUs that a file must be exact on."""

from __future__ import annotations

from enum import StrEnum


class Target(StrEnum):
    """`any`: exact on every CPU. `vnni`: exact, and fastest, on CPUs with 8-bit dot products (x86 VNNI, Arm dotprod).

    x86 CPUs without VNNI add two products of uint8 and int8 in 16 bits, which saturates at 8-bit weights. For `any`, the layers
    where that could happen store their weights as uint8, which those CPUs multiply in full, at some cost in speed where VNNI is.
    """

    ANY = "any"
    VNNI = "vnni"
