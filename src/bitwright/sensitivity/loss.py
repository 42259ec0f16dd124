# SPDX-License-Identifier: MIT
"""The loss whose curvature is measured: mean cross entropy, as a function of the weights that get quantized."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.errors import DataError
from bitwright.graph.evaluate import convolve, folded_weight
from bitwright.graph.execute import Linearity, execute
from bitwright.graph.graph import Graph
from bitwright.graph.images import check_images
from bitwright.graph.nodes import Layer


class GraphLoss:
    """Mean cross entropy of a graph on one batch, with the folded weights of its layers as the variables.

    Batch norm is part of those weights, with its running statistics, so images do not depend on each other. The weights
    are copies: neither the graph's tensors nor their gradients are touched.

    Args:
        graph: The network; its output must be logits of shape (batch, classes).
        images: Shape (batch, channels, height, width); taken to the device and dtype of the weights.
        labels: Classes, integers of shape (batch,).

    Raises:
        DataError: If images or labels do not fit the network.
    """

    def __init__(self, graph: Graph, images: Tensor, labels: Tensor) -> None:
        self.graph = graph
        self.parameters = {name: tensor.detach() for name, tensor in graph.parameters.items()}
        self.weights: dict[str, Tensor] = {}
        self.biases: dict[str, Tensor | None] = {}
        for name, layer in graph.layers.items():
            weight, bias = folded_weight(layer, self.parameters)
            self.weights[name] = weight.detach().clone().requires_grad_()
            self.biases[name] = bias
        _check(graph, images, labels)
        like = next(iter(self.weights.values()), images)
        self.images = images.to(like)
        self.labels = labels.to(like.device, torch.int64)

    def __call__(self) -> Tensor:
        """The loss, a scalar that depends on `weights`."""
        return self.at(self.weights)

    def at(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The loss with other folded weights."""
        return F.cross_entropy(self.logits(weights, self.images), self.labels)

    def terms(self, micro_batch: int) -> list[Callable[[], Tensor]]:
        """Functions of up to `micro_batch` images each, whose sum is the loss: what bounds the memory of its derivatives."""

        def term(images: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(self.logits(self.weights, images), labels, reduction="sum") / len(self.images)

        parts = zip(torch.split(self.images, micro_batch), torch.split(self.labels, micro_batch), strict=True)
        return [partial(term, images, labels) for images, labels in parts]

    def activation_terms(self, micro_batch: int) -> list[Callable[[], tuple[Tensor, dict[str, Tensor]]]]:
        """The same functions, each returning also what every layer reads, through which the term can be differentiated.

        Each layer has a view of its own, so that its derivatives are those through this layer and not through the others that
        read the tensor.
        """

        def term(images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            read: dict[str, Tensor] = {}

            def linear(node: Layer, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
                read[node.name] = values.view_as(values)
                return convolve(node, read[node.name], weight, bias)

            weights = {name: weight.detach() for name, weight in self.weights.items()}
            logits = self.logits(weights, images.detach().requires_grad_(), linear)
            return F.cross_entropy(logits, labels, reduction="sum") / len(self.images), read

        parts = zip(torch.split(self.images, micro_batch), torch.split(self.labels, micro_batch), strict=True)
        return [partial(term, images, labels) for images, labels in parts]

    def logits(self, weights: Mapping[str, Tensor], images: Tensor, linear: Linearity | None = None) -> Tensor:
        """The network's output for `images`, of shape (batch, classes); see `execute` for `linear`."""
        pairs = {name: (weights[name], bias) for name, bias in self.biases.items()}
        return execute(self.graph, self.parameters, images, weights=pairs, linear=linear)


def _check(graph: Graph, images: Tensor, labels: Tensor) -> None:
    """Refuse what does not fit, before torch does in its own words."""
    shape = graph[graph.output].shape
    if len(shape) != 1:
        raise DataError(f"{graph.model} returns {shape} for each image, but the loss needs logits of shape (classes,).")
    check_images(images, graph.input_shape, graph.model)
    if not len(images):
        raise DataError(f"sensitivities of {graph.model} need at least one image, got none.")
    if labels.shape != images.shape[:1] or labels.is_floating_point() or labels.dtype == torch.bool:
        raise DataError(
            f"expected {len(images)} integer labels, one for each image, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= shape[0]:
        raise DataError(f"labels must be 0 to {shape[0] - 1} for {graph.model}, got {low} to {high}.")
