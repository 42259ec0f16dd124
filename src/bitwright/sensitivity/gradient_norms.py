# SPDX-License-Identifier: MIT
"""Squared norms of each image's gradients, in all layers at once, from one backward pass.

In evaluation mode images do not depend on each other, so one backward pass of a batch holds the gradients of every image. By
a layer's weights they are the products of what it read and of the gradient of what it returned, image by image; only their
norms are kept. By the tensor that it read they are that pass itself.
"""

from __future__ import annotations

from functools import singledispatch

import torch
from torch import Tensor
from torch.nn.functional import unfold
from torch.nn.grad import conv2d_weight

from bitwright.graph.evaluate import convolve
from bitwright.graph.nodes import Conv2d, Layer, Linear, Node
from bitwright.sensitivity.loss import GraphLoss

_CHUNK = 2**22


def gradient_norms(loss: GraphLoss, images: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Squared norms of the gradients of <direction, outputs>, for each image and layer.

    Args:
        loss: The network and its weights.
        images: Shape (batch, channels, height, width).
        directions: Shape (batch, *outputs), one for each image.

    Returns:
        By the weights, and by the tensor that the layer reads (through this layer alone): both of shape (batch, layers),
        in float64, in the order of the graph's layers.
    """
    position = {name: index for index, name in enumerate(loss.weights)}
    by_weight = torch.zeros(len(images), len(position), dtype=torch.float64, device=images.device)
    by_input = torch.zeros_like(by_weight)

    def linear(node: Layer, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # A view of its own, so that the gradient is that through this layer and not through the others that read the tensor.
        read = values.view_as(values)
        result = convolve(node, read, weight, bias)
        kept, column = read.detach(), position[node.name]

        def keep_input(gradient: Tensor) -> None:
            by_input[:, column] = gradient.double().square().flatten(1).sum(1)

        def keep_weight(gradient: Tensor) -> None:
            by_weight[:, column] = weight_gradient_norms(node, kept, gradient, weight)

        read.register_hook(keep_input)  # type: ignore[no-untyped-call]
        result.register_hook(keep_weight)  # type: ignore[no-untyped-call]
        return result

    weights = {name: weight.detach() for name, weight in loss.weights.items()}
    with torch.enable_grad():
        source = images.detach().requires_grad_()
        outputs = loss.outputs(weights, source, linear)
        torch.autograd.grad(outputs, source, grad_outputs=directions.to(outputs), allow_unused=True)
    return by_weight, by_input


@singledispatch
def weight_gradient_norms(node: Node, values: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    """Squared norm of each image's gradient by the weights of a layer.

    Args:
        node: The layer.
        values: What it read, batch first.
        gradient: The gradient of what its linear part returned, batch first.
        weight: The weight of the layer; only its shape matters.

    Returns:
        Shape (batch,).
    """
    raise NotImplementedError(f"{type(node).__name__} is no layer")


@weight_gradient_norms.register
def _(node: Linear, values: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    # The gradient is an outer product.
    return values.double().square().sum(1) * gradient.double().square().sum(1)


@weight_gradient_norms.register
def _(node: Conv2d, values: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    positions = gradient[0, 0].numel()
    # sum over positions s, t of <a_s, a_t> <g_s, g_t> is cheaper than the gradient where there are few positions.
    few = node.groups == 1 and positions * (weight[0].numel() + weight.shape[0]) < weight.numel()
    norms = _by_position_pairs if few else _by_grouped_convolution
    largest = max(weight.numel(), positions * weight[0].numel())
    pieces = max(1, _CHUNK // largest)
    return torch.cat(
        [
            norms(node, some, gradients, weight)
            for some, gradients in zip(torch.split(values, pieces), torch.split(gradient, pieces), strict=True)
        ]
    )


def _by_position_pairs(node: Conv2d, values: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    read = unfold(values, weight.shape[2:], node.dilation, node.padding, node.stride)
    made = gradient.flatten(2)
    return ((read.transpose(1, 2) @ read).double() * (made.transpose(1, 2) @ made)).sum((1, 2))


def _by_grouped_convolution(node: Conv2d, values: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:
    """Every image is a group of one convolution, so each group's weight gradient is that of its image."""
    batch = len(values)
    found: Tensor = conv2d_weight(  # type: ignore[no-untyped-call]
        values.reshape(1, -1, *values.shape[2:]),
        (batch * weight.shape[0], *weight.shape[1:]),
        gradient.reshape(1, -1, *gradient.shape[2:]),
        node.stride,
        node.padding,
        node.dilation,
        batch * node.groups,
    )
    return found.reshape(batch, -1).square().sum(1, dtype=torch.float64)
