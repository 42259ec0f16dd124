# SPDX-License-Identifier: MIT
"""The CPUs that a file must be exact on."""

from __future__ import annotations

from enum import StrEnum
from typing import NoReturn

from bitwright.errors import ExportError, unknown_name
from bitwright.integer.model import IntegerModel
from bitwright.integer.proof.bounds import SATURATING_SUM, largest_pair_sum


class Target(StrEnum):
    """`any`: exact on every CPU. `vnni`: exact, and fastest, on CPUs with 8-bit dot products (x86 VNNI, Arm dotprod).

    x86 CPUs without VNNI add two products of uint8 and int8 in 16 bits, which saturates at 8-bit weights. For `any`, the layers
    where that could happen store their weights as uint8, which those CPUs multiply in full, at some cost in speed where VNNI is.

    `avx2`: exact on every CPU with int8 weights alone, the fastest form on all of them, for models that were lowered such that no
    pair of products leaves 16 bits: `lower(model, avoid_saturation=True)`. Other models are refused.
    """

    ANY = "any"
    AVX2 = "avx2"
    VNNI = "vnni"

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise unknown_name("target", str(value), cls)


def saturating_layers(model: IntegerModel) -> list[str]:
    """The layers two products of which can exceed 16 bits."""
    return [
        name
        for name, op in model.layers().items()
        if largest_pair_sum(op.weight, model.formats[op.inputs[0]]) > SATURATING_SUM
    ]


def check_target(model: IntegerModel, target: Target) -> None:
    """Refuse a model that is not the target's.

    Raises:
        ExportError: If the target is `avx2` and a layer can saturate.
    """
    saturating = saturating_layers(model) if target is Target.AVX2 else []
    if saturating:
        raise ExportError(
            f"target 'avx2': expected pairs of products within 16 bits, got {len(saturating)} layers that can exceed them, first "
            f"'{saturating[0]}'. "
            "Lower the checkpoint with --target avx2, which narrows their weights or inputs, or export for the target 'any'."
        )
