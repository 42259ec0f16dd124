# SPDX-License-Identifier: MIT
"""What depends on parameters alone is computed at capture."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune
from torchvision.ops import FrozenBatchNorm2d

from bitwright.errors import CaptureError
from bitwright.graph import FloatModel, Graph, capture
from graph.networks import IMAGE, Called, Then, kinds


class Standardised(nn.Conv2d):
    """Weight standardisation: each filter with mean 0 and variance 1."""

    def forward(self, images: Tensor) -> Tensor:
        mean, variance = self.weight.mean((1, 2, 3), keepdim=True), self.weight.var((1, 2, 3), keepdim=True)
        return F.conv2d(images, (self.weight - mean) / (variance + 1e-5).sqrt(), self.bias)


class Branches(nn.Module):
    """A 3 x 3 and a 1 x 1 convolution that are added as weights, as RepVGG does."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.small = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        weight = self.wide.weight + F.pad(self.small.weight, (1, 1, 1, 1))
        return F.conv2d(images, weight, self.wide.bias + self.small.bias, padding=1)


def _old(function: object) -> nn.Module:
    """A norm that PyTorch has replaced."""
    with pytest.warns(FutureWarning, match="deprecated"):
        return function(nn.Conv2d(3, 4, 3))  # type: ignore[operator]


def _same(model: nn.Module) -> Graph:
    """The graph, equal to the model as float32 is."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    graph = capture(model.eval(), IMAGE)
    images = torch.randn(5, *IMAGE)
    with torch.no_grad():
        torch.testing.assert_close(FloatModel(graph).eval()(images), model(images), rtol=1e-5, atol=1e-5)
    return graph


@pytest.mark.parametrize(
    "make",
    [
        lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)),
        lambda: parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)),
        lambda: nn.utils.spectral_norm(nn.Conv2d(3, 4, 3)),
        lambda: _old(nn.utils.weight_norm),
        lambda: prune.l1_unstructured(nn.Conv2d(3, 4, 3), "weight", 0.5),
        lambda: Standardised(3, 4, 3),
        Branches,
    ],
)
def test_weights_that_are_computed(make: object) -> None:
    """The layer gets the weight as it is; the tensors that it was made of go, and are not counted as parameters."""
    graph = _same(nn.Sequential(make()))  # type: ignore[operator]
    assert kinds(graph) == ["Input", "Conv2d"]
    (layer,) = graph.layers.values()
    assert layer.name == "0"
    assert set(graph.parameters) == {layer.weight, layer.bias}
    assert layer.weight.startswith("0.")


def test_a_frozen_norm_becomes_part_of_its_convolution() -> None:
    """Torchvision's frozen batch norm is an affine map by constants."""
    graph = _same(nn.Sequential(nn.Conv2d(3, 8, 3), FrozenBatchNorm2d(8), nn.ReLU()))
    assert kinds(graph) == ["Input", "Conv2d"]


def test_what_is_used_itself_stays() -> None:
    """A weight that one layer uses as it is and another halved has both values, each under a name of its own."""
    conv = nn.Conv2d(3, 3, 3)
    graph = _same(Called(lambda m, x: F.conv2d(F.relu(m.conv(x)), m.conv.weight * 0.5), conv=conv))
    assert torch.equal(graph.parameters["conv.weight"], conv.weight)
    assert len({layer.weight for layer in graph.layers.values()}) == 2


def test_the_model_keeps_its_tensors() -> None:
    """An operation that writes into a constant writes into a copy."""
    model = Then(lambda x: x * model.conv.bias.clone().mul_(2).view(-1, 1, 1))
    before = model.conv.bias.clone()
    capture(model, IMAGE)
    assert torch.equal(model.conv.bias, before)


def test_random_constants_are_refused() -> None:
    """A network that draws numbers has no fixed integers."""
    with pytest.raises(CaptureError, match=r"aten\.rand\.default at the top module: it draws random numbers"):
        capture(Then(lambda x: x * torch.rand(8, 1, 1)), IMAGE)


def test_no_grad_and_autocast_within_forward() -> None:
    """What a model does without gradients, or under autocast, is captured as any other part, in float32."""

    def forward(m: nn.Module, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = m.first(x)
        with torch.autocast("cpu", torch.bfloat16):
            return m.second(x).float()

    graph = capture(Called(forward, first=nn.Conv2d(3, 4, 3), second=nn.Conv2d(4, 4, 3)), IMAGE)
    assert list(graph.layers) == ["first", "second"]
    assert torch.autocast.__enter__.__qualname__ == "autocast.__enter__"
