# SPDX-License-Identifier: MIT
"""Element-wise functions of one tensor, whatever they are made of: with inputs of a byte, a table of 256 entries."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from bitwright.graph.aten.registry import arguments, handles, tensor
from bitwright.graph.builder import Builder
from bitwright.graph.evaluate import Tensors, evaluate
from bitwright.graph.functions import can_be_negative, check_program, compute
from bitwright.graph.nodes import Bytewise
from bitwright.graph.signs import makes_negative


@dataclass(frozen=True, kw_only=True)
class Table(Bytewise):
    """An element-wise function of one tensor.

    Attributes:
        program: The function, as `graph.functions` writes it.
    """

    program: tuple[str | float, ...]

    def __post_init__(self) -> None:
        check_program(self.program)


def _add(builder: Builder, fx_node: fx.Node, *program: str | float) -> str:
    """The node of an operation whose program begins with `x`."""
    return builder.add(
        Table(
            name=builder.node_name(fx_node, str(program[-1])),
            inputs=(tensor(builder, fx_node, arguments(builder, fx_node)["self"]),),
            shape=builder.shape(fx_node),
            place=builder.place(fx_node),
            program=("x", *program),
        )
    )


def _named(operation: str) -> None:
    """A handler for an operation that is a function of the same name without parameters."""

    @handles(operation)
    def _(builder: Builder, fx_node: fx.Node) -> str:
        return _add(builder, fx_node, operation)


for _operation in (
    *("abs", "erf", "exp", "hardsigmoid", "hardswish", "log", "mish", "reciprocal", "rsqrt", "sigmoid", "silu"),
    *("sqrt", "square", "tanh"),
):
    _named(_operation)


@handles("gelu")
def _gelu(builder: Builder, fx_node: fx.Node) -> str:
    return _add(builder, fx_node, "gelu_tanh" if arguments(builder, fx_node)["approximate"] == "tanh" else "gelu")


@handles("leaky_relu")
def _leaky_relu(builder: Builder, fx_node: fx.Node) -> str:
    return _add(builder, fx_node, float(arguments(builder, fx_node)["negative_slope"]), "leaky_relu")


@handles("elu")
def _elu(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    if (given["scale"], given["input_scale"]) != (1, 1):
        raise builder.refuse(fx_node, "an ELU with scales of its own.")
    return _add(builder, fx_node, float(given["alpha"]), "elu")


@handles("celu")
def _celu(builder: Builder, fx_node: fx.Node) -> str:
    alpha = float(arguments(builder, fx_node)["alpha"])
    return _add(builder, fx_node, alpha, "div", 1.0, "elu", alpha, "mul")


@handles("selu")
def _selu(builder: Builder, fx_node: fx.Node) -> str:
    return _add(builder, fx_node, 1.6732632423543772, "elu", 1.0507009873554805, "mul")


@handles("softplus")
def _softplus(builder: Builder, fx_node: fx.Node) -> str:
    beta = float(arguments(builder, fx_node)["beta"])
    if beta == 1:
        return _add(builder, fx_node, "softplus")
    return _add(builder, fx_node, beta, "mul", "softplus", beta, "div")


@evaluate.register
def _(node: Table, inputs: list[Tensor], parameters: Tensors) -> Tensor:
    return compute(node.program, inputs[0])


@makes_negative.register
def _(node: Table, inputs: list[bool]) -> bool:
    return can_be_negative(node.program, inputs[0])
