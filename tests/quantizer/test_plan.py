# SPDX-License-Identifier: MIT
"""Which tensor carries which format: the demands of readers, and where a Requantize stands."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from bitwright.allocation import peak_activation
from bitwright.graph import Graph
from bitwright.graph.nodes import Add, Concat, Layer, Requantize, Selection
from bitwright.graph.signs import negative_tensors
from bitwright.quantizer import TensorFormat, demands, plan
from bitwright.scheme import Precision, Scheme
from graph.networks import Called, captured


def residual() -> Graph:
    """A stem that a layer and an addition read, a pool, and two heads that are concatenated."""

    def forward(self: nn.Module, images: torch.Tensor) -> torch.Tensor:
        stem = torch.relu(self.stem(images))
        total = nn.functional.max_pool2d(torch.relu(stem + self.branch(stem)), 2)
        return self.head(torch.cat([self.left(total), torch.relu(self.right(total))], 1).flatten(1))

    return captured(
        Called(
            forward,
            stem=nn.Conv2d(3, 6, 3, padding=1),
            branch=nn.Conv2d(6, 6, 1),
            left=nn.Conv2d(6, 2, 1),
            right=nn.Conv2d(6, 2, 1),
            head=nn.Linear(4 * 16, 5),
        )
    )


def scheme(residual_bits: int = 8, **bits: int) -> Scheme:
    """Activation bits by layer, 8 for the others; weights at 8."""
    layers = {name: Precision(8, bits.get(name, 8)) for name in ("stem", "branch", "left", "right", "head")}
    return Scheme("some", layers, residual_bits)


@pytest.mark.parametrize("residual_bits", [8, 16])
def test_a_tensor_carries_what_its_most_demanding_reader_wants(residual_bits: int) -> None:
    """The addition wants the bits of residuals of both of its inputs; the layer beside it reads through a Requantize."""
    found = plan(residual(), scheme(residual_bits, branch=3, left=4, right=5))
    assert found.format("stem") == TensorFormat.unsigned(residual_bits)
    assert found.format("branch") == TensorFormat.symmetric(residual_bits)
    narrow = found.graph[found.graph["branch"].inputs[0]]
    assert isinstance(narrow, Requantize)
    assert found.format(narrow.name) == TensorFormat.unsigned(3)
    (total,) = (node for node in found.graph if isinstance(node, Add))
    assert found.format(total.name) == TensorFormat.unsigned(5)
    read = found.graph["left"].inputs[0], found.graph["right"].inputs[0]
    assert [found.format(name).bit_width for name in read] == [4, 5]


def test_inputs_of_a_concatenation_share_its_quantizer() -> None:
    """One scale and one format, which is signed since one of them can be negative."""
    found = plan(residual(), scheme(head=6))
    (joined,) = (node for node in found.graph if isinstance(node, Concat))
    assert {found.quantizer_of[name] for name in joined.inputs} == {joined.name}
    assert found.format(joined.name) == TensorFormat.symmetric(6)


def test_every_tensor_has_the_format_of_its_demand_and_sign() -> None:
    """But for concatenations' inputs and Requantize nodes, the format follows from the captured graph alone."""
    graph = residual()
    precisions = scheme(16, branch=3, left=4)
    found, wanted, negative = plan(graph, precisions), demands(graph, 16), negative_tensors(graph)
    shared = {name for node in graph if isinstance(node, Concat) for name in node.inputs}
    for node in graph:
        if node.name not in shared and not isinstance(node, Selection):
            bits = wanted[node.name].bits(precisions.layers)
            assert found.format(node.name) == TensorFormat.of(bits, negative=negative[node.name])


@pytest.mark.parametrize("residual_bits", [8, 16])
def test_tensorrt_has_no_unsigned_bytes(residual_bits: int) -> None:
    """Tensors of 8 bits are symmetric there; all others keep their formats, and every one of up to 8 bits fits int8."""
    precisions = scheme(residual_bits, branch=3, left=7)
    usual, found = plan(residual(), precisions), plan(residual(), replace(precisions, deploy="tensorrt"))
    changed = {name for name in usual.formats if found.formats[name] != usual.formats[name]}
    assert changed == {name for name, made in usual.formats.items() if made == TensorFormat.unsigned(8)} != set()
    assert all(found.formats[name] == TensorFormat.symmetric(8) for name in changed)
    assert all(made.quant_max < 128 for made in found.formats.values() if made.bit_width <= 8)


def test_windows_move_where_values_can_be_negative() -> None:
    """Of 8 bits and fewer; of 7 and fewer for TensorRT, whose bytes have no zero point; nowhere if the scheme is symmetric."""
    precisions = scheme(16, head=4)
    found = plan(residual(), precisions)
    assert (
        found.asymmetric
        == {name for name, made in found.formats.items() if made.negative and made.bit_width <= 8}
        != set()
    )
    assert any(made.bit_width == 16 and made.negative for made in found.formats.values())
    for_tensorrt = plan(residual(), replace(precisions, deploy="tensorrt"))
    assert for_tensorrt.asymmetric == {name for name in found.asymmetric if found.formats[name].bit_width < 8}
    assert plan(residual(), replace(precisions, activations="symmetric")).asymmetric == set()


def test_budgets_count_the_formats_of_the_plan() -> None:
    """Activation memory is counted at the bits that the plan gives each tensor, 16-bit tensors included."""
    graph = residual()
    for precisions in (scheme(8, branch=3, left=4), scheme(16, head=2), scheme(16, branch=5, right=3)):
        found = plan(graph, precisions)
        usage = peak_activation(graph, precisions.residual_bits)
        for _, live in usage.steps:
            for tensor in live:
                if tensor.name not in graph.returned:  # which is counted as the int32 that leaves the network
                    assert tensor.demand.bits(precisions.layers) == found.format(tensor.name).bit_width


def test_layers_want_the_bits_of_their_precision_behind_movers() -> None:
    """A pool between a sum and its layers hands their demand on."""
    wanted = demands(residual(), 16)
    (total,) = (node for node in residual() if isinstance(node, Add))
    assert wanted[total.name].layers == ("left", "right")
    assert wanted[total.name].least == 0
    assert wanted["stem"].least == 16
    assert all(isinstance(residual()[layer], Layer) for layer in wanted["stem"].layers)
