# SPDX-License-Identifier: MIT
"""All passes: what holds for each of them, and for all together."""

from __future__ import annotations

import sys

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.graph import Graph, capture
from bitwright.graph.passes import PASSES, Pass, simplify
from graph.networks import IMAGE, Called, assert_same, randomized


def mixed(m: nn.Module, x: Tensor) -> Tensor:
    """Something for every pass: folded and lone norms, fused and lone clamps, a shuffle, a pad, a weighted sum, dead ends."""
    y = F.relu(m.norm1(m.conv1(F.pad(x, (1, 1, 1, 1)))))
    y = y * torch.sigmoid(y)
    y = y * torch.sigmoid(m.gate(y.mean((2, 3)))).view(-1, 8, 1, 1)
    z = m.norm2(m.conv2(y))
    y = F.relu6(F.relu(y + 0.5 * z))
    y = torch.cat([y, F.relu(F.max_pool2d(z, 3, 1, 1))], 1)
    y = F.relu(m.norm3(y))
    y = y.view(-1, 2, 8, 8, 8).transpose(1, 2).reshape(-1, 16, 8, 8)
    return m.head(F.adaptive_avg_pool2d(y, 1).flatten(1))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A network with something for every pass."""
    return randomized(
        Called(
            mixed,
            conv1=nn.Conv2d(3, 8, 3),
            norm1=nn.BatchNorm2d(8),
            conv2=nn.Conv2d(8, 8, 3, padding=1, bias=False),
            norm2=nn.BatchNorm2d(8, affine=False),
            gate=nn.Linear(8, 8),
            norm3=nn.BatchNorm2d(16),
            head=nn.Linear(16, 4),
        )
    )


@pytest.fixture
def raw(model: nn.Module, monkeypatch: pytest.MonkeyPatch) -> Graph:
    """The network as translated, before any pass."""
    seen: list[Graph] = []

    def keep(graph: Graph) -> Graph:
        seen.append(graph)
        return simplify(graph)

    monkeypatch.setattr(sys.modules[capture.__module__], "simplify", keep)
    capture(model, IMAGE)
    return seen[0]


def test_the_passes_leave_outputs_unchanged(model: nn.Module) -> None:
    """The simplified graph is the model, at any batch size."""
    assert_same(model, capture(model, IMAGE))


@pytest.mark.parametrize("apply", PASSES, ids=lambda apply: apply.__name__)
def test_a_pass_reports_what_it_did(raw: Graph, apply: Pass) -> None:
    """`changed` is true exactly if the nodes are others; what a pass did not change it hands back equal."""
    once, changed = apply(raw)
    assert changed
    assert once.nodes != raw.nodes
    done = simplify(raw)
    again, changed = apply(done)
    assert not changed
    assert again.nodes == done.nodes


@pytest.mark.parametrize("apply", PASSES, ids=lambda apply: apply.__name__)
def test_a_pass_reaches_a_fixed_point(raw: Graph, apply: Pass) -> None:
    """Applied again and again, every pass alone comes to an end, and then changes nothing."""
    graph, changed, rounds = raw, True, 0
    while changed:
        graph, changed = apply(graph)
        rounds += 1
    assert rounds <= 3
    assert apply(graph)[0].nodes == graph.nodes


def test_simplifying_twice_is_simplifying_once(raw: Graph) -> None:
    """The fixed point is one: nodes, output and parameters stay."""
    once = simplify(raw)
    twice = simplify(once)
    assert (twice.nodes, twice.outputs, set(twice.parameters)) == (once.nodes, once.outputs, set(once.parameters))


def test_passes_do_not_touch_their_input(raw: Graph) -> None:
    """A graph is a value: passes make a new one."""
    nodes, names = raw.nodes, set(raw.parameters)
    simplify(raw)
    assert raw.nodes == nodes
    assert set(raw.parameters) == names
