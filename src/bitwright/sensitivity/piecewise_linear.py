# SPDX-License-Identifier: MIT
"""Whether a network is piecewise linear in each layer's weights: what makes its Gauss-Newton blocks those of the Hessian."""

from __future__ import annotations

from bitwright.errors import TrainingError
from bitwright.graph.graph import Graph
from bitwright.graph.nodes import (
    Add,
    Affine,
    AvgPool2d,
    BatchNorm,
    ChannelShuffle,
    Clamp,
    Concat,
    Conv2d,
    Dropout,
    Flatten,
    Input,
    Linear,
    MaxPool2d,
    Requantize,
    Reshape,
    Slice,
    Transpose,
)

# Each is linear in what it reads, taken together, on each of finitely many pieces. A product of two tensors would not be.
PIECEWISE_LINEAR = (
    Add, Affine, AvgPool2d, BatchNorm, ChannelShuffle, Clamp, Concat, Conv2d, Dropout, Flatten, Input, Linear, MaxPool2d,
    Requantize, Reshape, Slice, Transpose,
)  # fmt: skip


def require_piecewise_linear(graph: Graph) -> None:
    """Refuse a network whose Gauss-Newton trace is not the Hessian's.

    An operation counts as curved until it is listed here, so that a new one cannot make a wrong number out of a right one.

    Raises:
        TrainingError: It names the first operation that is not piecewise linear.
    """
    for node in graph:
        if type(node) not in PIECEWISE_LINEAR:
            raise TrainingError(
                f"'{node.name}' ({type(node).__name__}{f', {node.place}' if node.place else ''}) is not piecewise linear, so the "
                f"Gauss-Newton trace of {graph.model} is not the Hessian's: measure the metric hutchinson_trace."
            )
