# SPDX-License-Identifier: MIT
"""A network that is not piecewise linear, so that the Gauss-Newton matrix is not the Hessian for layers before the curves."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.graph import Graph, capture
from graph.networks import Called, randomized
from sensitivity.problems import CLASSES, IMAGE, in_float64


def _forward(net: nn.Module, images: Tensor) -> Tensor:
    values = F.silu(net.stem(images))
    gated = values * torch.sigmoid(net.gate(F.adaptive_avg_pool2d(values, 1)))
    return net.fc(F.adaptive_avg_pool2d(gated, 1).flatten(1))


@functools.cache
def curved_problem(images: int = 4) -> tuple[Graph, Tensor, Tensor]:
    """SiLU and a gate of squeeze-and-excitation, images and labels, all in float64."""
    torch.manual_seed(7)
    network = Called(_forward, stem=nn.Conv2d(2, 4, 3, padding=1), gate=nn.Conv2d(4, 4, 1), fc=nn.Linear(4, CLASSES))
    graph = in_float64(capture(randomized(network), IMAGE, name="curved"))
    return graph, torch.randn(images, *IMAGE, dtype=torch.float64), torch.arange(images) % CLASSES
