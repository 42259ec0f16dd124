# SPDX-License-Identifier: MIT
"""A small classification problem in float64, and slow, literal twins of what is estimated about it."""

from __future__ import annotations

import functools
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.graph import FloatModel, Graph, capture, execute, folded_weight
from bitwright.graph.evaluate import convolve
from bitwright.graph.nodes import Layer
from graph.networks import Called, randomized

IMAGE = (2, 6, 6)
CLASSES = 3


def small_network() -> nn.Module:
    """Convolutions with and without batch norm, one depthwise, a residual sum, both kinds of clamps, pooling."""

    def forward(net: nn.Module, images: Tensor) -> Tensor:
        values = F.relu(net.norm(net.stem(images)))
        values = F.relu6(net.depthwise(values)) + values
        values = F.adaptive_avg_pool2d(F.max_pool2d(values, 2), 1).flatten(1)
        return net.fc(values)

    torch.manual_seed(5)
    return Called(
        forward,
        stem=nn.Conv2d(2, 4, 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(4),
        depthwise=nn.Conv2d(4, 4, 3, padding=1, groups=4),
        fc=nn.Linear(4, CLASSES),
    )


def in_float64(graph: Graph) -> Graph:
    """The same network with double the digits."""
    return replace(graph, parameters={name: tensor.double() for name, tensor in graph.parameters.items()})


@functools.cache
def problem(images: int = 12) -> tuple[Graph, Tensor, Tensor]:
    """A graph, images and labels, all in float64; trained a little, so that curvature stands out from noise."""
    graph = in_float64(capture(randomized(small_network()), IMAGE, name="small"))
    generator = torch.Generator().manual_seed(5)
    labels = torch.randint(CLASSES, (images,), generator=generator)
    means = torch.randn(CLASSES, *IMAGE, generator=generator, dtype=torch.float64)
    batch = means[labels] + torch.randn(images, *IMAGE, generator=generator, dtype=torch.float64)
    model = FloatModel(graph)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(batch), labels).backward()
        optimizer.step()
    return graph.with_parameters(model.state_dict()), batch, labels


def dense_hessian(graph: Graph, layer: str, images: Tensor, labels: Tensor) -> Tensor:
    """The Hessian of the mean cross entropy over one layer's folded weights, entry by entry."""
    folded = {name: folded_weight(node, graph.parameters) for name, node in graph.layers.items()}

    def loss(weight: Tensor) -> Tensor:
        pairs = {**folded, layer: (weight, folded[layer][1])}
        return F.cross_entropy(execute(graph, graph.parameters, images, weights=pairs), labels)

    weight = folded[layer][0]
    return torch.autograd.functional.hessian(loss, weight).reshape(weight.numel(), weight.numel())


def activation_hessian(graph: Graph, layer: str, image: Tensor, label: Tensor) -> Tensor:
    """The Hessian of one image's loss over the tensor that a layer reads, perturbed for this layer alone."""

    def loss(step: Tensor) -> Tensor:
        def linear(node: Layer, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return convolve(node, values + step if node.name == layer else values, weight, bias)

        return F.cross_entropy(execute(graph, graph.parameters, image, linear=linear), label)

    shape = graph[graph[layer].inputs[0]].shape
    zero = torch.zeros(1, *shape, dtype=torch.float64)
    return torch.autograd.functional.hessian(loss, zero).reshape(zero.numel(), zero.numel())
