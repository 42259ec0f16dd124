# SPDX-License-Identifier: MIT
"""Networks with several outputs: named as their modules name them, captured, saved, and simplified without loss."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from bitwright.errors import BitwrightWarning, CaptureError, FileFormatError
from bitwright.graph import FloatModel, Graph, capture, execute
from bitwright.graph.tensors_file import read_structure
from bitwright.returned import by_name, first, named_tensors, returned
from graph.networks import IMAGE, Called
from several_outputs import RETURNED, captured, images


@pytest.mark.parametrize("name", RETURNED)
def test_outputs_are_those_of_the_module(name: str, tmp_path: Path) -> None:
    """By the module's own names, in its order, of any rank; also from a file, and without a trace in the module."""
    model, graph = captured(name)
    assert graph.output_shapes == RETURNED[name][1]
    assert list(graph.outputs) == list(RETURNED[name][1])
    assert "forward" not in vars(model)
    expected = named_tensors(model(images(3)), name)
    graph.save(tmp_path / "network")
    read = Graph.load(tmp_path / "network")
    assert list(read.outputs.items()) == list(graph.outputs.items())
    for made in (FloatModel(graph).eval()(images(3)), execute(read, read.parameters, images(3))):
        assert list(made) == list(expected)
        for key, values in expected.items():
            torch.testing.assert_close(made[key], values)


def test_one_is_a_tensor_and_several_are_a_dictionary() -> None:
    """And each is turned into the other's form."""
    one, two = torch.zeros(1), torch.ones(1)
    assert returned({"logits": one}) is one
    assert by_name(one) == {"logits": one}
    assert first(one) is one
    both = {"a": one, "b": two}
    assert by_name(returned(both)) == both
    assert first(both) is one


def test_clamps_of_outputs_stay_what_they_are() -> None:
    """A layer that is an output is not clamped by what reads it, and a clamped one not by the next clamp."""
    graph = captured("clamped")[1]
    kinds = [type(graph[tensor]).__name__ for tensor in graph.outputs.values()]
    assert kinds == ["Conv2d", "Clamp", "Clamp", "Flatten"]


def test_softmax_of_outputs_is_left_out() -> None:
    """Each output that ends in one gives its logits; one of many classes that something reads, too, is refused."""
    conv = nn.Conv2d(3, 12, 3)
    with pytest.warns(BitwrightWarning, match="ends in softmax"):
        graph = capture(Called(lambda m, x: {"p": m.conv(x).softmax(1), "q": m.conv(x)}, conv=conv), IMAGE)
    assert all(graph[tensor].name in graph.layers for tensor in graph.outputs.values())
    with pytest.raises(CaptureError, match="unsupported softmax"):
        capture(Called(lambda m, x: ((p := m.conv(x).softmax(1)), p.relu()), conv=conv), IMAGE)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({}, "it returns nothing"),
        ({"logits": "absent"}, "its output 'absent' is no node"),
        ({"score": "conv"}, "its only output is called 'score', not 'logits'"),
        ({"images": "conv", "a": "conv"}, "an output cannot be called 'images'"),
        ({"a_int32": "conv", "a": "conv"}, "the name 'a_int32' of an output is that of another's integers"),
    ],
)
def test_files_with_other_outputs_are_refused(tmp_path: Path, outputs: dict[str, str], message: str) -> None:
    """No file makes a graph that could not be captured."""
    graph = capture(Called(lambda m, x: m.conv(x), conv=nn.Conv2d(3, 4, 3)), IMAGE)
    graph.save(tmp_path / "network")
    _, structure = read_structure(tmp_path / "network", "bitwright.graph.2", "graph")
    with pytest.raises((CaptureError, FileFormatError), match=message):
        Graph.from_dict({**structure, "outputs": outputs}, graph.parameters)
