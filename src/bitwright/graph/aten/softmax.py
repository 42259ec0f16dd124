# SPDX-License-Identifier: MIT
"""Softmax: left out where it ends the network; over a few branches, a sigmoid of differences.

With d = x[i] - log(sum of exp(x[j]), j != i), the share of branch i is exp(x[i]) / (sum of all exp(x[j])) = sigmoid(d). The
logarithm of a sum of two exponentials is b + softplus(a - b), and that of more is made of these. So all is additions and tables
of numbers that stay small, each rounded once: the same integers on every engine, whatever the branches hold.
"""

from __future__ import annotations

from functools import partial, reduce

from torch import fx

from bitwright.graph.aten.arithmetic import function_of, sum_of
from bitwright.graph.aten.moves import axis_of, joined, take
from bitwright.graph.aten.registry import arguments, handles, tensor
from bitwright.graph.builder import Builder
from bitwright.graph.nodes import Probabilities

_MOST = 8
"""Branches: the sums are as many as their square."""


@handles("softmax", "log_softmax")
def _softmax(builder: Builder, fx_node: fx.Node) -> str:
    given = arguments(builder, fx_node)
    source = tensor(builder, fx_node, given["self"])
    axis, logarithm = axis_of(builder, source, given["dim"]), "log" in str(fx_node.target)
    shape = builder.shape_of(source)
    ends = all(user.op == "output" for user in fx_node.users)
    if axis and not ends and not logarithm and 1 < shape[axis - 1] <= _MOST:
        return _over_branches(builder, fx_node, source, axis)
    if axis != 1:
        raise builder.refuse(
            fx_node,
            f"a softmax over axis {axis}, as attention computes it; known are that over the classes at the end of the network, "
            f"and within it one over 2 to {_MOST} branches.",
        )
    return builder.add(
        Probabilities(
            name=builder.node_name(fx_node, "softmax"),
            inputs=(source,),
            shape=shape,
            place=builder.place(fx_node),
            logarithm=logarithm,
        )
    )


def _over_branches(builder: Builder, fx_node: fx.Node, source: str, axis: int) -> str:
    """The shares of branches that lie along an axis."""
    count = builder.shape_of(source)[axis - 1]
    branches = [take(builder, fx_node, source, axis, [place]) for place in range(count)]
    shares = []
    for place, branch in enumerate(branches):
        others = [other for other in range(count) if other != place]
        rest = reduce(partial(_logarithm_of_sum, builder, fx_node), (branches[other] for other in others))
        difference = sum_of(builder, fx_node, branch, rest, factor=-1.0)
        shares.append(function_of(builder, fx_node, difference, "sigmoid"))
    return joined(builder, fx_node, shares, axis)


def _logarithm_of_sum(builder: Builder, fx_node: fx.Node, first: str, second: str) -> str:
    """log(exp(first) + exp(second)), which does not overflow."""
    difference = sum_of(builder, fx_node, first, second, factor=-1.0)
    return sum_of(builder, fx_node, second, function_of(builder, fx_node, difference, "softplus"))
