# SPDX-License-Identifier: MIT
"""Networks that the timings share: random weights, which change no speed, and a batch norm that knows the images."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bitwright.graph import load_model
from bitwright.graph.sources import image_size

IMAGES = 4


def settled(name: str, size: int | None = None) -> tuple[nn.Module, Tensor]:
    """The network in evaluation mode, and random images of `size` pixels (its own by default)."""
    torch.manual_seed(0)
    network = load_model(name)
    images = torch.randn(IMAGES, 3, *[size or image_size(name, network)] * 2)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(images)
    return network.eval(), images
