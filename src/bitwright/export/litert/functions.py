# SPDX-License-Identifier: MIT
"""Element-wise functions in LiteRT's float32 operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bitwright.export.litert.builder import LitertBuilder
from bitwright.graph.functions import FUNCTIONS, Program, apply_program

OPERATORS: Mapping[str, tuple[str, str]] = {
    "add": ("ADD", "AddOptions"), "sub": ("SUB", "SubOptions"), "mul": ("MUL", "MulOptions"), "div": ("DIV", "DivOptions"),
    "minimum": ("MINIMUM", "MaximumMinimumOptions"), "maximum": ("MAXIMUM", "MaximumMinimumOptions"),
    "neg": ("NEG", "NegOptions"), "abs": ("ABS", "AbsOptions"), "exp": ("EXP", "ExpOptions"), "log": ("LOG", ""),
    "sqrt": ("SQRT", ""), "sigmoid": ("LOGISTIC", ""), "tanh": ("TANH", ""),
    "hardswish": ("HARD_SWISH", "HardSwishOptions"), "gelu": ("GELU", "GeluOptions"),
}  # fmt: skip
"""By function, the operator and its options."""


class _Tensor(int):
    """The place of a tensor in the file, which is no number of a program."""


def has_form(program: Program) -> bool:
    """Whether LiteRT has operators for a function; it has none for erf."""
    found = True

    def known(name: str, given: Sequence[int | float]) -> int | float | None:
        nonlocal found
        if name not in OPERATORS and FUNCTIONS[name].program is not None:
            return None
        found = found and name in OPERATORS
        return 0

    apply_program(program, 0, known)
    return found


def function_in_litert(program: Program, x: int, shape: Sequence[int], builder: LitertBuilder) -> int:
    """A program of the float32 tensor `x`, whose shape is that of the result, without the batch."""

    def operator(name: str, given: Sequence[int | float]) -> int | float | None:
        if name not in OPERATORS:
            return None
        kind, options = OPERATORS[name]
        operands = [value if isinstance(value, _Tensor) else builder.floats(value) for value in given]
        return _Tensor(builder.node(kind, operands, builder.tensor(builder.nhwc(shape), "FLOAT32"), options))

    return int(apply_program(program, _Tensor(x), operator))
