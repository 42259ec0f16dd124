# SPDX-License-Identifier: MIT
"""A small network of gates: squeeze-and-excitation, spatial attention, and activation functions of several kinds."""

from __future__ import annotations

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.graph import Graph, capture
from bitwright.integer import IntegerModel, lower
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, Ranges, TrainSettings, calibrate, quantize, train
from training.small import SHAPE, digits, few


class Gated(nn.Module):
    """A stem with SiLU, an inverted residual with a gate for each channel, a map for each pixel, tables that share a scale."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.down = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.Hardswish())
        self.deep = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16, bias=False), nn.BatchNorm2d(16), nn.SiLU())
        self.squeeze, self.excite = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 16, 1)
        self.project = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16))
        self.attend = nn.Conv2d(16, 1, 3, padding=1)
        self.left, self.right = nn.Conv2d(16, 8, 1), nn.Conv2d(16, 8, 3, padding=1)
        self.fc = nn.Linear(16, 10)

    def forward(self, images: Tensor) -> Tensor:
        x = self.down(self.stem(images))
        y = self.deep(x)
        y = y * torch.sigmoid(self.excite(F.silu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = x + self.project(y)
        x = x * F.hardsigmoid(self.attend(x))
        x = torch.cat([F.leaky_relu(self.left(x), 0.1), torch.tanh(self.right(x))], 1)
        return self.fc(x.mean((2, 3)))


@cache
def gated_graph() -> Graph:
    """The network with random weights whose batch norm knows the digits."""
    torch.manual_seed(0)
    network = Gated().train()
    images = digits().calibration(256)[0]
    with torch.no_grad():
        for _ in range(30):
            network(images)
    return capture(network.eval(), SHAPE, name="gated")


def gated_quantized(
    precision: str, residual_bits: int = 8, ranges: Ranges | str = Ranges.LEARNED, *, epochs: int = 0
) -> QuantizedModel:
    """Quantized, calibrated, and trained for some epochs of 256 images."""
    graph = gated_graph()
    uniform = Scheme.uniform(graph.layers, Precision.parse(precision))
    model = quantize(graph, Scheme(uniform.name, uniform.layers, residual_bits), ranges=ranges)
    calibrate(model, [digits().calibration(128)[0]])
    if epochs:
        train(model, few(256), TrainSettings(epochs=epochs, learning_rate=0.02))
    return model.eval()


@cache
def gated_model(precision: str, residual_bits: int = 8) -> IntegerModel:
    """Lowered."""
    return lower(gated_quantized(precision, residual_bits))
