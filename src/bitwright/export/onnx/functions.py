# SPDX-License-Identifier: MIT
"""Element-wise functions in ONNX's operators."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from bitwright.export.onnx.graph import OnnxGraph
from bitwright.graph.functions import Program, apply_program

PRIMITIVES: Mapping[str, str] = {
    "add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div", "minimum": "Min", "maximum": "Max", "neg": "Neg", "abs": "Abs",
    "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "sigmoid": "Sigmoid", "tanh": "Tanh", "erf": "Erf",
    "softplus": "Softplus", "reciprocal": "Reciprocal", "hardsigmoid": "HardSigmoid", "leaky_relu": "LeakyRelu", "elu": "Elu",
}  # fmt: skip
"""Functions that have been operators since opset 13."""

LATER: Mapping[str, str] = {"gelu": "Gelu", "gelu_tanh": "Gelu", "hardswish": "HardSwish", "mish": "Mish"}
"""Those that opset 20 has as well."""

_ATTRIBUTES: Mapping[str, Mapping[str, str | float]] = {
    "gelu_tanh": {"approximate": "tanh"},
    "hardsigmoid": {"alpha": 1 / 6, "beta": 0.5},
}
_ALPHA = ("leaky_relu", "elu")
"""Functions whose second argument is an attribute."""


def function_in_onnx(program: Program, x: str, output: str, graph: OnnxGraph, *, later: bool = True) -> str:
    """Add the nodes of a program.

    Args:
        program: The function.
        x: The float32 tensor that it is of.
        output: Name of its result; nodes in between are named after it.
        graph: Where to add them.
        later: Whether the operators of opset 20 are there.
    """
    known = {**PRIMITIVES, **(LATER if later else {})}
    made = 0

    def operator(name: str, given: Sequence[str | float]) -> str | float | None:
        nonlocal made
        if name not in known:
            return None
        attributes = dict(_ATTRIBUTES.get(name, {}))
        if name in _ALPHA:
            *given, alpha = given
            attributes["alpha"] = alpha
        operands = [value if isinstance(value, str) else graph.scalar(value) for value in given]
        made += 1
        return graph.node(known[name], operands, f"{output}.step{made}", **attributes)

    result = apply_program(program, x, operator)
    assert isinstance(result, str)
    return graph.node("Identity", [result], output)


def is_one_operator(program: Program) -> bool:
    """Whether a program is one operator of ONNX, which reads its input once."""
    name = program[-1]
    return program.count("x") == 1 and sum(isinstance(step, str) for step in program) == 2 and name in {
        *PRIMITIVES, *LATER,
    }  # fmt: skip
