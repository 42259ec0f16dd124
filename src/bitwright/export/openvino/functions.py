# SPDX-License-Identifier: MIT
"""Element-wise functions in OpenVINO's operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bitwright.export.openvino.builder import OpenvinoBuilder, Value
from bitwright.graph.functions import Program, apply_program

OPERATORS: Mapping[str, str] = {
    "add": "add", "sub": "subtract", "mul": "multiply", "div": "divide", "minimum": "minimum", "maximum": "maximum",
    "neg": "negative", "abs": "abs", "exp": "exp", "log": "log", "sqrt": "sqrt", "sigmoid": "sigmoid", "tanh": "tanh",
    "erf": "erf", "softplus": "softplus", "mish": "mish", "leaky_relu": "prelu", "hardswish": "hswish",
    "hardsigmoid": "hsigmoid",
}  # fmt: skip
"""By function; numbers among their arguments are constants."""

_GELU = {"gelu": "erf", "gelu_tanh": "tanh"}


def function_in_openvino(program: Program, x: Value, builder: OpenvinoBuilder) -> Value:
    """A program of the float32 tensor `x`."""

    def operator(name: str, given: Sequence[Value]) -> Value:
        if name in _GELU:
            return builder.ops.gelu(given[0], _GELU[name])
        if name == "elu":
            return builder.ops.elu(*given)
        if name not in OPERATORS:
            return None
        operands = [builder.floats(value) if isinstance(value, float) else value for value in given]
        return getattr(builder.ops, OPERATORS[name])(*operands)

    return apply_program(program, x, operator)
