# SPDX-License-Identifier: MIT
"""Element-wise functions in LiteRT's float32 operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bitwright.export.litert.builder import LitertBuilder
from bitwright.graph.functions import FUNCTIONS, Program, apply_program
from bitwright.integer.operations.table import IntegerTable
from bitwright.integer.quant_params import QuantParams

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


def branches(program: Program) -> bool:
    """Whether a function reads its input more than once. One that does not is about as fast in XNNPACK as a table of bytes.

    >>> branches(("x", "silu")), branches(("x", "hardswish"))
    (True, False)
    """
    x, readers = object(), 0

    def operator(name: str, given: Sequence[object | float]) -> object | float | None:
        nonlocal readers
        if name not in OPERATORS:
            return None
        readers += sum(value is x for value in given)
        return 0.0

    apply_program(program, x, operator)
    return readers > 1


def add_branching(op: IntegerTable, builder: LitertBuilder, params: QuantParams, result: QuantParams) -> None:
    """A table whose function branches: its scales are those of the tensors that it begins and ends with.

    Multiplications by these would be two of five passes over float32 numbers; a reshape renames the scale of bytes.
    """
    (name,) = op.inputs
    source, sizes = builder.held[name], builder.nhwc(op.shape)
    renamed = builder.reshape(source.tensor, builder.like(source, sizes, params.scale), sizes)
    x = builder.node("DEQUANTIZE", [renamed], builder.tensor(sizes, "FLOAT32"), "DequantizeOptions", 2)
    real = function_in_litert(op.program, x, op.shape, builder)
    kinds = builder.schema.ActivationFunctionType

    def quantize(output: int, activation: int) -> None:
        values, zero_point = real, builder.held[op.name].zero_point
        if activation != kinds.NONE:
            values = builder.node("RELU", [values], builder.tensor(sizes, "FLOAT32"))
        made = builder.tensor(sizes, "INT8", scale=result.scale, zero_point=zero_point)
        builder.reshape(builder.node("QUANTIZE", [values], made, "QuantizeOptions"), output, sizes)

    builder.saturated(op.name, op.shape, result.quant_min, result.quant_max, quantize)


def function_in_litert(program: Program, x: int, shape: Sequence[int], builder: LitertBuilder) -> int:
    """A program of the float32 tensor `x`, whose shape is that of the result, without the batch."""

    def operator(name: str, given: Sequence[int | float]) -> int | float | None:
        if name not in OPERATORS:
            return None
        kind, options = OPERATORS[name]
        operands = [value if isinstance(value, _Tensor) else builder.floats(value) for value in given]
        return _Tensor(builder.node(kind, operands, builder.tensor(builder.nhwc(shape), "FLOAT32"), options))

    return int(apply_program(program, _Tensor(x), operator))
