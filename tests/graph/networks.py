# SPDX-License-Identifier: MIT
"""Small networks for the tests of the graph, and the one way to compare a network with its graph."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bitwright.graph import FloatModel, Graph, capture

IMAGE = (3, 8, 8)


class Then(nn.Module):
    """A convolution of `IMAGE` to `channels` channels, then any function of its result."""

    def __init__(self, function: Callable[[Tensor], Tensor], channels: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 3, padding=1)
        self.function = function

    def forward(self, images: Tensor) -> Tensor:
        return self.function(self.conv(images))


class Called(nn.Module):
    """Modules and parameters by name, and what to do with them: `forward(self.modules_by_name, images)`."""

    def __init__(self, forward: Callable[[nn.Module, Tensor], Tensor], **modules: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.call = forward
        for name, module in modules.items():
            setattr(self, name, module)

    def forward(self, images: Tensor) -> Tensor:
        return self.call(self, images)


def randomized(model: nn.Module) -> nn.Module:
    """`model` with random gains, offsets and statistics, so that no mistake hides behind ones and zeros."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for norm in model.modules():
            if isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d):
                for tensor in (norm.running_mean, norm.bias):
                    if tensor is not None:
                        tensor.normal_(generator=generator)
                for tensor in (norm.running_var, norm.weight):
                    if tensor is not None:
                        tensor.uniform_(0.5, 2.0, generator=generator)
    return model.eval()


def captured(model: nn.Module, input_shape: tuple[int, ...] = IMAGE) -> Graph:
    """The graph of the randomized model, proved equal to it at batch sizes 1 and 5."""
    graph = capture(randomized(model), input_shape)
    assert_same(model, graph)
    return graph


def assert_same(model: nn.Module, graph: Graph, batch_sizes: tuple[int, ...] = (1, 5)) -> None:
    """Model and graph compute the same, to the last digits of float64."""
    exact = copy.deepcopy(model).double().eval()
    floats = FloatModel(graph).double().eval()
    generator = torch.Generator().manual_seed(1)
    for size in batch_sizes:
        images = torch.randn(size, *graph.input_shape, generator=generator, dtype=torch.float64)
        with torch.no_grad():
            expected, got = exact(images.clone()), floats(images)
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10 * float(expected.abs().max()))
        assert float(expected.std()) > 0


def kinds(graph: Graph) -> list[str]:
    """The class names of the nodes, in order."""
    return [type(node).__name__ for node in graph]
