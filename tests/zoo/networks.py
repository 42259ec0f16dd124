# SPDX-License-Identifier: MIT
"""Networks of the zoo with random weights, as the reference would have trained them, each made once in a session."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from bitwright.graph import Graph, capture, load_model
from bitwright.integer import IntegerModel
from bitwright.zoo import import_checkpoint, published_modules, published_scheme
from bitwright.zoo.names import layer_name
from zoo.twin import Twin


def bits_of(model: str, scheme: str) -> dict[str, int]:
    """Weight bits by published name."""
    layers = published_scheme(model, scheme).layers
    return {module: layers[layer_name(module)].weight_bits for module in published_modules(model)}


@cache
def network(model: str, side: int) -> tuple[nn.Module, Graph, Tensor]:
    """A network with random weights whose batch norm knows its statistics, its graph, and images."""
    torch.manual_seed(0)
    made = load_model(f"pytorchcv:{model}")
    if side != 224:
        made.features.final_pool = nn.AvgPool2d(side // 32, stride=1)
    images = torch.randn(4, 3, side, side)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        made.train()(images)
    made.eval()
    return made, capture(made, (3, side, side), name=f"pytorchcv:{model}"), images


@cache
def trained(model: str, scheme: str, side: int) -> tuple[Twin, Graph, Tensor]:
    """A twin whose ranges were set by two images, its graph, and other images: some ranges will be left."""
    made, graph, images = network(model, side)
    twin = Twin(model, made, bits_of(model, scheme))
    twin(images[:2])
    return twin, graph, torch.cat([images[2:], 2 * images[:1]])


def imported(model: str, scheme: str, side: int, folder: Path) -> tuple[IntegerModel, Tensor]:
    """A twin's checkpoint, imported, and images."""
    twin, graph, images = trained(model, scheme, side)
    torch.save(twin.quantized_checkpoint(), folder / "quantized_checkpoint.pth.tar")
    return import_checkpoint(folder / "quantized_checkpoint.pth.tar", model, scheme, graph=graph), images
