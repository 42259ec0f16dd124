# SPDX-License-Identifier: MIT
"""Folding batch norm: outputs stay, layers keep their weights, lone norms become layers."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bitwright.graph import FloatModel, Graph, capture, folded_weight
from bitwright.graph.nodes import BatchNorm, Conv2d, Input, Linear, Norm
from bitwright.graph.passes import fold_batch_norm
from graph.networks import IMAGE, Called, assert_same, captured, kinds, randomized

STATISTICS = ("mean", "variance", "weight", "bias")


def raw(groups: int, biased: bool, affine: bool, seed: int) -> Graph:
    """A convolution and its batch norm as captured, with random tensors."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    parameters = {"conv.weight": random(8, 4 // groups, 3, 3), "mean": random(8), "variance": random(8).square()}
    if biased:
        parameters["conv.bias"] = random(8)
    if affine:
        parameters |= {"gain": random(8), "offset": random(8)}
    conv = Conv2d(
        name="conv",
        inputs=("input",),
        shape=(8, 6, 6),
        weight="conv.weight",
        bias="conv.bias" if biased else None,
        stride=(1, 1),
        padding=(1, 1),
        dilation=(1, 1),
        groups=groups,
    )
    norm = Norm("mean", "variance", "gain" if affine else None, "offset" if affine else None, eps=1e-3)
    nodes = (
        Input(name="input", inputs=(), shape=(4, 6, 6)),
        conv,
        BatchNorm(name="norm", inputs=("conv",), shape=(8, 6, 6), norm=norm),
    )
    return Graph("raw", nodes, {"logits": "norm"}, parameters)


@given(st.sampled_from([1, 2, 4]), st.booleans(), st.booleans(), st.integers(0, 2**32))
def test_folding_leaves_outputs_unchanged(groups: int, biased: bool, affine: bool, seed: int) -> None:
    """Weights times the gain and a corrected bias give what the two operations gave, negative gains included."""
    graph = raw(groups, biased, affine, seed)
    folded, changed = fold_batch_norm(graph)
    assert changed
    assert kinds(folded) == ["Input", "Conv2d"]
    assert folded.outputs == {"logits": "conv"}
    images = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    with torch.no_grad():
        expected, got = FloatModel(graph)(images), FloatModel(folded)(images)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))


@pytest.mark.parametrize("layer", ["conv", "linear"])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_modules_of_all_kinds(layer: str, affine: bool, bias: bool) -> None:
    """Captured modules with and without bias, gain and offset keep their outputs, and their layer keeps its name."""
    if layer == "conv":
        body = [nn.Conv2d(3, 8, 3, bias=bias), nn.BatchNorm2d(8, affine=affine)]
    else:
        body = [nn.Flatten(), nn.Linear(192, 8, bias=bias), nn.BatchNorm1d(8, affine=affine)]
    graph = captured(nn.Sequential(*body))
    (found,) = graph.layers.values()
    assert isinstance(found, Conv2d | Linear)
    assert found.name == str(len(body) - 2)
    assert found.norm is not None
    assert (found.norm.weight is not None, found.bias is not None) == (affine, bias)
    weight, offset = folded_weight(found, graph.parameters)
    assert weight.shape == graph.parameters[found.weight].shape
    assert offset is not None
    assert offset.shape == (8,)


def test_a_layer_without_norm_is_not_folded() -> None:
    """`folded_weight` of a plain layer is its own weight and bias."""
    graph = captured(nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.Conv2d(8, 4, 1)))
    first, second = graph.layers.values()
    assert folded_weight(first, graph.parameters) == (graph.parameters["0.weight"], None)
    assert folded_weight(second, graph.parameters) == (graph.parameters["1.weight"], graph.parameters["1.bias"])


def test_a_lone_norm_becomes_a_depthwise_layer() -> None:
    """A norm after a concatenation is a convolution of its own, with a weight of ones, and bears the norm's name."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return F.relu(m.norm(torch.cat([x, F.max_pool2d(x, 3, 1, 1)], 1)))

    graph = captured(Called(forward, norm=nn.BatchNorm2d(6)))
    assert kinds(graph) == ["Input", "MaxPool2d", "Concat", "Conv2d"]
    layer = graph.layers["norm"]
    assert isinstance(layer, Conv2d)
    assert (layer.groups, layer.weight, layer.bias) == (6, "norm.unit_weight", None)
    assert torch.equal(graph.parameters["norm.unit_weight"], torch.ones(6, 1, 1, 1))
    assert layer.bounds is not None


def shared(m: nn.Module, x: Tensor) -> Tensor:
    """The convolution is read twice: by its norm, and by the sum."""
    y = m.conv(x)
    return m.norm(y) + y


def two_norms(m: nn.Module, x: Tensor) -> Tensor:
    """One convolution, two norms."""
    y = m.conv(x)
    return torch.cat([m.norm(y), m.other(y)], 1)


@pytest.mark.parametrize("forward", [shared, two_norms])
def test_a_shared_convolution_is_not_folded(forward: object) -> None:
    """A norm that is not the only reader of its layer becomes a layer of its own."""
    model = Called(forward, conv=nn.Conv2d(3, 8, 3), norm=nn.BatchNorm2d(8), other=nn.BatchNorm2d(8))  # type: ignore[arg-type]
    graph = captured(model)
    assert graph.layers["conv"].norm is None
    assert "norm" in graph.layers


def test_an_output_is_not_folded() -> None:
    """A convolution whose own result is returned keeps it."""
    graph = raw(1, True, True, 0)
    graph = Graph(graph.model, graph.nodes, {"logits": "conv"}, graph.parameters)
    folded, _ = fold_batch_norm(graph)
    assert folded.layers["conv"].norm is None
    assert folded.outputs == {"logits": "conv"}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ([nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8)], ["0", "2"]),
        ([nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.ReLU(), nn.BatchNorm2d(8)], ["0", "2", "4"]),
        ([nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)], ["0", "2"]),
        ([nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)], ["0", "1"]),
        ([nn.Conv2d(3, 8, 3), nn.Dropout(), nn.BatchNorm2d(8)], ["0", "2"]),
    ],
)
def test_only_the_first_norm_right_behind_a_layer_is_folded(body: list[nn.Module], expected: list[str]) -> None:
    """A second norm, one behind a clamp or dropout, and one before the layer are layers of their own."""
    assert list(captured(nn.Sequential(*body)).layers) == expected


def test_a_module_that_is_called_twice_folds_both_times() -> None:
    """Each call of a shared convolution and its norm is a layer with the same tensors."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m.norm(m.conv(F.relu(m.norm(m.conv(x)))))

    graph = captured(Called(forward, conv=nn.Conv2d(3, 3, 3, padding=1), norm=nn.BatchNorm2d(3)))
    first, second = graph.layers.values()
    assert first.norm == second.norm
    assert kinds(graph) == ["Input", "Conv2d", "Conv2d"]


def test_a_lone_norm_that_is_called_twice() -> None:
    """Both layers keep a weight of their own."""
    model = randomized(Called(lambda m, x: m.norm(F.relu(m.norm(x))), norm=nn.BatchNorm2d(3)))
    graph = captured(model, IMAGE)
    assert [layer.weight for layer in graph.layers.values()] == ["norm.unit_weight", "norm#2.unit_weight"]
    assert_same(model, graph)


def test_a_norm_of_features_becomes_part_of_the_layer_behind_it() -> None:
    """As in heads that normalise what was pooled."""
    model = randomized(Called(lambda m, x: m.fc(m.norm(x.mean((2, 3)))), norm=nn.BatchNorm1d(3), fc=nn.Linear(3, 4)))
    graph, images = capture(model, IMAGE), torch.randn(5, *IMAGE)
    assert kinds(graph) == ["Input", "AvgPool2d", "Flatten", "Linear"]
    torch.testing.assert_close(FloatModel(graph).eval()(images), model(images), rtol=1e-5, atol=1e-5)
