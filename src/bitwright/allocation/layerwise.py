# SPDX-License-Identifier: MIT
"""Schemes on the way to a scheme of few bits: one layer after another falls, those first whose quantization costs most.

All later stages of a training then still make up for them (the order of HAWQ, Dong et al. 2019, arXiv:1905.03696).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

from bitwright.errors import SchemeError
from bitwright.scheme import MAX_BITS, Precision, Scheme
from bitwright.sensitivity import SensitivityTable


def layerwise_schemes(
    target: Scheme,
    table: SensitivityTable,
    *,
    rungs: Sequence[Precision] = (Precision(MAX_BITS, MAX_BITS),),
    per_stage: int = 1,
) -> tuple[Scheme, ...]:
    """The schemes of the stages: layers fall to the next rung, the most sensitive one first, until all have what `target` says.

    Args:
        target: The target of the last stage. Its layers that have as many bits as a rung or more keep them throughout.
        table: Says how much the loss suffers from each layer at each precision that it falls to.
        rungs: Precisions on the way, in falling order; the first one is where layers start.
        per_stage: How many layers fall in one stage.

    Returns:
        At least one scheme; the last is `target`.

    Raises:
        SchemeError: If the rungs do not fall, or no layer falls in a stage.
        UnknownNameError: If the table lacks a layer or a width that a layer falls to.
    """
    if per_stage < 1:
        raise SchemeError(f"expected at least 1 layer to fall in a stage, got {per_stage}.")
    for upper, lower in pairwise(rungs):
        if upper == lower or min(upper.weight_bits - lower.weight_bits, upper.act_bits - lower.act_bits) < 0:
            raise SchemeError(f"expected rungs of fewer and fewer bits, got {lower} after {upper}.")
    levels = [{layer: _higher(rung, own) for layer, own in target.layers.items()} for rung in rungs]
    found: list[Mapping[str, Precision]] = []
    for present, wanted in pairwise([*levels, dict(target.layers)]):
        cost = {
            layer: table.find(layer).loss_increase(precision)
            for layer, precision in wanted.items()
            if precision != present[layer]
        }
        falling = sorted(cost, key=cost.__getitem__, reverse=True)  # stable: ties in the order of execution
        for end in range(per_stage, len(falling) + per_stage, per_stage):
            fallen = set(falling[:end])
            found.append({layer: wanted[layer] if layer in fallen else own for layer, own in present.items()})
    stages = len(found)
    middle = [
        replace(target, name=f"{target.name}, stage {number} of {stages}", layers=layers)
        for number, layers in enumerate(found[:-1], 1)
    ]
    return (*middle, target)


def _higher(rung: Precision, own: Precision) -> Precision:
    return Precision(max(rung.weight_bits, own.weight_bits), max(rung.act_bits, own.act_bits))
