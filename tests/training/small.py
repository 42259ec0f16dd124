# SPDX-License-Identifier: MIT
"""A small residual network and a small real task, on which training takes a second."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from bitwright.data import ImageData, batches, load_data, subset
from bitwright.graph import Graph, capture
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, Ranges, calibrate, quantize

SHAPE = (1, 28, 28)


class SmallResidual(nn.Module):
    """Two strided convolutions, a residual block, a pool and a classifier; dropout if asked for."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.block = nn.Sequential(
            nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
            nn.Conv2d(16, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16),
        )  # fmt: skip
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = self.down(self.stem(images))
        features = torch.relu(features + self.block(features))
        return self.fc(self.dropout(self.pool(features).flatten(1)))


@cache
def digits() -> ImageData:
    """The embedded digits, 28 pixels wide."""
    return load_data("mnist-5k")


def few(
    count: int = 512, batch_size: int = 64, seed: int = 0, *, augment: bool = True
) -> DataLoader[tuple[Tensor, Tensor]]:
    """Shuffled batches of a stratified part of the training digits."""
    train = digits().train
    return batches(subset(train, count / len(train)), batch_size, shuffle=True, augment=augment, seed=seed)


def small_graph(dropout: float = 0.0) -> Graph:
    """The network with random weights whose batch norm knows the digits."""
    torch.manual_seed(0)
    network = SmallResidual(dropout)
    network.train()
    images = digits().calibration(256)[0]
    with torch.no_grad():
        for _ in range(30):
            network(images)
    return capture(network.eval(), SHAPE, name="small")


def small_quantized(
    precision: str = "W4A4",
    *,
    dropout: float = 0.0,
    ranges: Ranges | str = Ranges.LEARNED,
    free_norm: bool = True,
    residual_bits: int = 8,
) -> QuantizedModel:
    """The network, quantized and calibrated."""
    graph = small_graph(dropout)
    uniform = Scheme.uniform(graph.layers, Precision.parse(precision))
    scheme = Scheme(uniform.name, uniform.layers, residual_bits)
    return calibrate(quantize(graph, scheme, ranges=ranges, free_norm=free_norm), [digits().calibration(128)[0]])
