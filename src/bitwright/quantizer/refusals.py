# SPDX-License-Identifier: MIT
"""What cannot be lowered whatever the weights and scales turn out to be: known before any training is spent on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch

from bitwright.errors import LoweringError
from bitwright.graph.nodes import Add, AvgPool2d, Bytewise, Clamp, Concat, Input, Layer, Node, Requantize, Selection
from bitwright.quantizer.plan import QuantPlan
from bitwright.quantizer.sums import INT32_MAX, magnitude, window_sums


@dataclass(frozen=True)
class Refusal:
    """Why one operation of a network has no exact form.

    Attributes:
        layer: Its name.
        reason: What was expected and got, and what to do, as a sentence.
        engine: That has no form of it; empty where it has no integer form at all.
    """

    layer: str
    reason: str
    engine: str = ""

    def __str__(self) -> str:
        return f"{self.engine}: {self.reason}" if self.engine else self.reason


def lowering_refusals(plan: QuantPlan) -> list[Refusal]:
    """The operations that lowering refuses by their shapes and formats alone, in order."""
    found = ((node.name, _refused(node, plan)) for node in plan.graph)
    return [Refusal(name, reason) for name, reason in found if reason]


def require_none(refusals: Sequence[Refusal], error: type[Exception] = LoweringError) -> None:
    """Raise one error that holds every refusal."""
    if refusals:
        raise error("; ".join(map(str, refusals)))


@singledispatch
def _refused(node: Node, plan: QuantPlan) -> str:
    """The reason, or nothing."""
    raise NotImplementedError(f"no rule for {type(node).__name__}")


@_refused.register
def _(node: Layer | Add, plan: QuantPlan) -> str:
    return ""  # lowering bounds their sums, which depend on weights and scales


@_refused.register
def _(node: Input | Clamp | Concat | Selection | Requantize, plan: QuantPlan) -> str:
    return ""  # nothing is added up


@_refused.register
def _(node: Bytewise, plan: QuantPlan) -> str:
    return ""  # the plan gives it bytes, all of whose cases lowering goes through


@_refused.register
def _(node: AvgPool2d, plan: QuantPlan) -> str:
    window = plan.format(node.inputs[0])
    asymmetric = plan.quantizer_of[node.inputs[0]] in plan.asymmetric
    ends = (0, window.span) if asymmetric else window.ends
    largest = magnitude(window_sums(node.kernel, ends))
    if largest <= INT32_MAX:
        return ""
    return (
        f"'{node.name}': expected sums within int32, got up to {largest} over a window of {node.kernel[0]} x {node.kernel[1]} "
        f"values of {window.bit_width} bits. Average over smaller windows, or use residual_bits: 8."
    )
