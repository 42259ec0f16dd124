# SPDX-License-Identifier: MIT
"""Element-wise functions of one activation: every one is a table."""

from __future__ import annotations

from collections.abc import Mapping

from torch import fx

from bitwright.graph.aten.arithmetic import function_of
from bitwright.graph.aten.registry import arguments, handles, tensor
from bitwright.graph.builder import Builder


def _add(builder: Builder, fx_node: fx.Node, *program: str | float) -> str:
    """The function that an operation is of its first argument."""
    return function_of(builder, fx_node, tensor(builder, fx_node, arguments(builder, fx_node)["self"]), *program)


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


@handles("log_sigmoid")
def _log_sigmoid(builder: Builder, fx_node: fx.Node) -> str:
    return _add(builder, fx_node, "neg", "softplus", "neg")


POWERS: Mapping[float, tuple[str, ...]] = {
    -1.0: ("reciprocal",),
    -0.5: ("rsqrt",),
    0.5: ("sqrt",),
    2.0: ("square",),
    3.0: ("x", "square", "mul"),
    4.0: ("square", "square"),
}
"""By exponent, what comes behind `x`."""


@handles("pow")
def _pow(builder: Builder, fx_node: fx.Node) -> str:
    exponent = arguments(builder, fx_node).get("exponent")
    if not isinstance(exponent, int | float) or exponent not in POWERS:
        raise builder.refuse(fx_node, f"a power other than {', '.join(f'{power:g}' for power in POWERS)}.")
    return _add(builder, fx_node, *POWERS[exponent])
