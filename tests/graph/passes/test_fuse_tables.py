# SPDX-License-Identifier: MIT
"""Element-wise functions written by hand are one table, and compute what they computed."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.graph import Graph, Table, capture, execute
from bitwright.graph.passes import fuse_tables, simplify
from graph.networks import IMAGE, Called, Then, captured, kinds

WRITTEN_OUT: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "silu": (lambda x: x * torch.sigmoid(x), F.silu),
    "silu, sigmoid first": (lambda x: x.sigmoid() * x, F.silu),
    "hardswish": (lambda x: x * F.relu6(x + 3) / 6, F.hardswish),
    "hardswish, divided before": (lambda x: x * (F.relu6(x + 3) / 6), F.hardswish),
    "hardsigmoid times x": (lambda x: F.hardsigmoid(x) * x, F.hardswish),
    "mish": (lambda x: x * torch.tanh(F.softplus(x)), F.mish),
    "gelu": (lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))), F.gelu),
    "quick gelu": (lambda x: x * torch.sigmoid(1.702 * x), lambda x: x * torch.sigmoid(1.702 * x)),
    "softsign": (lambda x: x / (1 + x.abs()), F.softsign),
    "tanhshrink": (lambda x: x - torch.tanh(x), F.tanhshrink),
    "reciprocal": (lambda x: 2 / (x * x + 1), lambda x: 2 / (x.square() + 1)),
    "square": (lambda x: x * x, torch.square),
    "residual": (lambda x: x + x.tanh(), lambda x: x + x.tanh()),
    "clamped": (lambda x: x.sigmoid().clamp(0.25, 0.75), lambda x: x.sigmoid().clamp(0.25, 0.75)),
    "two in a row": (lambda x: F.silu(x).tanh(), lambda x: F.silu(x).tanh()),
}


@pytest.mark.parametrize("name", WRITTEN_OUT)
def test_a_function_written_out_is_one_table(name: str) -> None:
    """One table behind the convolution, with the values of the function."""
    written, function = WRITTEN_OUT[name]
    graph = capture(Then(written), IMAGE)
    assert kinds(graph) == ["Input", "Conv2d", "Table"]
    table = graph.nodes[-1]
    assert isinstance(table, Table)
    images = torch.randn(2, *IMAGE)
    values = {}
    execute(graph, graph.parameters, images, observe=lambda node, value: values.__setitem__(node.name, value))
    torch.testing.assert_close(values[table.name], function(values[table.inputs[0]]))
    assert set(graph.parameters) == {"conv.weight", "conv.bias"}


def test_clamps_and_affine_maps_alone_are_no_table() -> None:
    """They are part of layers."""
    graph = capture(Then(lambda x: F.relu(2 * x + 1) * 3), IMAGE)
    assert kinds(graph) == ["Input", "Conv2d"]


def test_a_relu_before_a_table_stays_with_its_layer() -> None:
    """Behind batch norm as well: the integers that the table reads are those of the clamp."""
    model = Called(
        lambda m, x: F.relu(m.norm(m.conv(x))).tanh(), conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8).eval()
    )
    graph = captured(model)
    assert kinds(graph) == ["Input", "Conv2d", "Table"]
    assert graph.nodes[-1].program == ("x", "tanh")  # type: ignore[attr-defined]


def test_products_of_unlike_tensors_stay() -> None:
    """A gate, and a tensor times a function of another; what is read elsewhere is kept."""
    graph = captured(Then(lambda x: x * x.mean((2, 3), keepdim=True).sigmoid()))
    assert kinds(graph) == ["Input", "Conv2d", "AvgPool2d", "Table", "Product"]
    graph = captured(Then(lambda x: (x * x.sigmoid()) * F.avg_pool2d(x.sigmoid(), 3, 1, 1)))
    assert kinds(graph) == ["Input", "Conv2d", "Table", "Table", "AvgPool2d", "Product"]


def test_a_constant_for_each_channel_is_no_number() -> None:
    """A scale of its own for each channel stays outside of the table."""
    scales = torch.rand(8, 1, 1) + 0.5
    graph = captured(Then(lambda x: torch.tanh(x) * scales))
    assert kinds(graph) == ["Input", "Conv2d", "Table", "Conv2d"]


def test_programs_do_not_grow_without_end() -> None:
    """Squares of squares would read their input 2**k times."""

    def power(x: Tensor) -> Tensor:
        for _ in range(12):
            x = x * x * 0.5
        return x

    graph = captured(Then(power))
    tables = [node for node in graph if isinstance(node, Table)]
    assert 1 < len(tables) <= 12
    assert all(len(table.program) <= 100 for table in tables)


def test_a_second_pass_changes_nothing() -> None:
    """The fixed point is one."""
    graph = captured(Then(lambda x: x * torch.sigmoid(x)))
    again, changed = fuse_tables(graph)
    assert not changed
    assert again is graph
    assert isinstance(simplify(graph), Graph)
