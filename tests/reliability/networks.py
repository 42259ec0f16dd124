# SPDX-License-Identifier: MIT
"""A network with every kind of node, small enough to be loaded and run a thousand times; found as `reliability.networks:tiny`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitwright.graph import Graph, capture
from bitwright.integer import IntegerModel, lower
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, calibrate, quantize

SIZE = 8


class Tiny(nn.Module):
    """Convolutions with batch norm and clamps, a sum, a concatenation, both kinds of pooling, a linear layer."""

    def __init__(self, in_channels: int = 1, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(in_channels, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU6())
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4))
        self.side = nn.Conv2d(4, 2, 1)
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.1), nn.Linear(6, num_classes))
        self.in_size = (SIZE, SIZE)

    def forward(self, images: Tensor) -> Tensor:
        features = self.stem(images)
        features = self.pool((features + self.body(features)).relu())
        return self.head(torch.cat([features, self.side(features)], 1))


def tiny(in_channels: int = 1, num_classes: int = 10) -> nn.Module:
    """The factory, with the same weights each time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tiny(in_channels, num_classes).eval()


def images(count: int = 4) -> Tensor:
    """Some for the network."""
    return torch.randn(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def tiny_graph() -> Graph:
    """The network, captured."""
    return capture(tiny(), (1, SIZE, SIZE), name="reliability.networks:tiny")


def tiny_quantized(graph: Graph) -> QuantizedModel:
    """The network at 4 bits, calibrated."""
    model = quantize(graph, Scheme.uniform(graph.layers, Precision(4, 4)))
    calibrate(model, [images()])
    return model.eval()


def tiny_integer(graph: Graph) -> IntegerModel:
    """The network in integers."""
    return lower(tiny_quantized(graph))
