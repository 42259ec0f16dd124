# SPDX-License-Identifier: MIT
"""The loss whose curvature is measured: that of a task, as a function of the weights that get quantized."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import torch
from torch import Tensor

from bitwright.errors import DataError, TrainingError, unknown_name
from bitwright.graph.evaluate import convolve, folded_weight
from bitwright.graph.execute import Linearity, execute
from bitwright.graph.graph import Graph
from bitwright.graph.images import check_images
from bitwright.graph.nodes import Layer
from bitwright.returned import SINGLE, Returned, by_name, shapes_of, shown_shapes
from bitwright.sensitivity.joined import Joined
from bitwright.task import Curvature, DifferentiatedCurvature, Task, classification, require_one_output, require_outputs
from bitwright.task.pairs import unlike

_OWN_MICRO_BATCH = 64


def judged_outputs(graph: Graph, task: Task, output: str | None) -> Mapping[str, tuple[int, ...]]:
    """The shapes, for one image, of the outputs whose loss is measured, by name.

    Args:
        graph: The network.
        task: What it is for.
        output: Of several outputs, the only one that counts; None takes all.

    Raises:
        TaskError: If the task does not fit it.
        UnknownNameError: If there is no such output.
    """
    if output is not None and output not in graph.outputs:
        raise unknown_name("output", output, graph.outputs)
    shapes = graph.output_shapes if output is None else {output: graph.output_shapes[output]}
    require_one_output(task, shapes, graph.model, "; or measure one of them: --of-output NAME (in Python, output=)")
    require_outputs(task, next(iter(shapes.values())), graph.model)
    return shapes


class GraphLoss:
    """The loss of a graph on one batch, mean over its images, with the folded weights of its layers as the variables.

    Batch norm is part of those weights, with its running statistics, so images do not depend on each other. The weights
    are copies: neither the graph's tensors nor their gradients are touched.

    Several outputs are joined, for a task of several, to one vector of an image: what `outputs` gives, and what curvature is of.

    Args:
        graph: The network; its outputs must be such as the task judges.
        images: Shape (batch, channels, height, width); taken to the device and dtype of the weights.
        targets: The targets of these images, for classification integers of shape (batch,); None where the task imitates a
            network and is free of labels: they are then its reference's outputs, or without one the graph's own.
        task: What the network is for; None is classification.
        output: Of a network with several outputs, the only one that counts; None takes all.

    Raises:
        DataError: If images or targets do not fit the network.
        TaskError: If the task does not fit it.
        UnknownNameError: If there is no such output.
    """

    def __init__(
        self,
        graph: Graph,
        images: Tensor,
        targets: Tensor | None,
        task: Task | None = None,
        output: str | None = None,
    ) -> None:
        self.graph = graph
        self.task = task or classification()
        self.parameters = {name: tensor.detach() for name, tensor in graph.parameters.items()}
        self.weights: dict[str, Tensor] = {}
        self.biases: dict[str, Tensor | None] = {}
        for name, layer in graph.layers.items():
            weight, bias = folded_weight(layer, self.parameters)
            self.weights[name] = weight.detach().clone().requires_grad_()
            self.biases[name] = bias
        self.output = output
        shapes = judged_outputs(graph, self.task, output)
        self.shape = next(iter(shapes.values()))
        self._joined = Joined(shapes) if len(shapes) > 1 else None
        check_images(images, graph.input_shape, graph.model)
        if not len(images):
            raise DataError(f"sensitivities of {graph.model} need at least one image, got none.")
        like = next(iter(self.weights.values()), images)
        self.images = images.to(like)
        self.targets = self._fitting(targets).to(like.device)

    def __call__(self) -> Tensor:
        """The loss, a scalar that depends on `weights`."""
        return self.at(self.weights)

    def at(self, weights: Mapping[str, Tensor]) -> Tensor:
        """The loss with other folded weights."""
        return self.of(self.outputs(weights, self.images), self.targets)

    def of(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of outputs that `outputs` gave: their mean over images, a scalar."""
        if self._joined is None:
            return self.task.loss(outputs, targets)
        given = self._joined.parts(targets) if self.task.label_free else targets
        return self.task.loss(self._joined.parts(outputs), given)

    def curvature(self) -> Curvature:
        """That of the loss at the outputs."""
        if self._joined is None:
            return self.task.curved()
        closed = None if self.task.curvature is None else self.task.curvature.in_a_row(self._joined.sizes)
        return closed or DifferentiatedCurvature(self.of)

    def parts(self, micro_batch: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and targets, so many at a time."""
        return zip(torch.split(self.images, micro_batch), torch.split(self.targets, micro_batch), strict=True)

    def terms(self, micro_batch: int) -> list[Callable[[], Tensor]]:
        """Functions of up to `micro_batch` images each, whose sum is the loss: what bounds the memory of its derivatives."""

        def term(images: Tensor, targets: Tensor) -> Tensor:
            return self._share(self.outputs(self.weights, images), targets)

        return [partial(term, images, targets) for images, targets in self.parts(micro_batch)]

    def activation_terms(self, micro_batch: int) -> list[Callable[[], tuple[Tensor, dict[str, Tensor]]]]:
        """The same functions, each returning also what every layer reads, through which the term can be differentiated.

        Each layer has a view of its own, so that its derivatives are those through this layer and not through the others that
        read the tensor.
        """

        def term(images: Tensor, targets: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            read: dict[str, Tensor] = {}

            def linear(node: Layer, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
                read[node.name] = values.view_as(values)
                return convolve(node, read[node.name], weight, bias)

            weights = {name: weight.detach() for name, weight in self.weights.items()}
            outputs = self.outputs(weights, images.detach().requires_grad_(), linear)
            return self._share(outputs, targets), read

        return [partial(term, images, targets) for images, targets in self.parts(micro_batch)]

    @torch.no_grad()
    def of_each(self, weights: Mapping[str, Tensor], linear: Linearity | None, micro_batch: int) -> Tensor:
        """The loss of each image by itself, in float64; arguments as of `outputs`, and the images in one pass."""
        losses = []
        for images, targets in self.parts(micro_batch):
            outputs = self.outputs(weights, images, linear).double()
            pairs = zip(torch.split(outputs, 1), torch.split(self.in_float64(targets), 1), strict=True)
            losses += [self.of(output, target) for output, target in pairs]
        return torch.stack(losses)

    def outputs(self, weights: Mapping[str, Tensor], images: Tensor, linear: Linearity | None = None) -> Tensor:
        """The network's output for `images`, of shape (batch, *outputs); see `execute` for `linear`."""
        pairs = {name: (weights[name], bias) for name, bias in self.biases.items()}
        return self._taken(execute(self.graph, self.parameters, images, weights=pairs, linear=linear))

    def _taken(self, returned: Returned) -> Tensor:
        """Of what a network returns, the output that counts, or all in one."""
        if self._joined is not None:
            return self._joined.join(by_name(returned))
        found, name = by_name(returned), self.output or SINGLE
        if name not in found:  # as in what a reference returns
            shapes = {each: shape[1:] for each, shape in shapes_of(returned).items()}
            raise unlike(shown_shapes(shapes), shown_shapes({name: self.shape}))
        taken: Tensor = found[name]
        return taken

    @torch.no_grad()
    def all_outputs(self, micro_batch: int) -> Tensor:
        """The network's output for all images, finite.

        Raises:
            TrainingError: If one is not.
        """
        found = torch.cat([self.outputs(self.weights, some) for some in torch.split(self.images, micro_batch)])
        if not torch.isfinite(found).all():
            raise TrainingError("the network's outputs are not finite: check the weights and the images.")
        return found

    @staticmethod
    def in_float64(targets: Tensor) -> Tensor:
        """Targets beside outputs in float64: real numbers likewise, classes as they are."""
        return targets.double() if targets.is_floating_point() else targets

    def _share(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """What some of the images add to the mean over all."""
        return self.of(outputs, targets) * (len(outputs) / len(self.images))

    def _fitting(self, targets: Tensor | None) -> Tensor:
        """Targets of all images, which fit the network."""
        if self.task.label_free:
            if self.task.reference is None:
                return self.all_outputs(_OWN_MICRO_BATCH)
            imitated = self._taken(self.task.imitated(self.images))
            if self._joined is None:
                self.task.check(imitated, self.shape)
            return imitated
        if targets is None:
            raise DataError(
                f"the task {self.task.name} needs labels, got none: give them, or measure the task agreement."
            )
        if targets.shape[:1] != self.images.shape[:1]:
            raise DataError(f"expected labels of {len(self.images)} images, got shape {tuple(targets.shape)}.")
        self.task.check(targets, self.shape)
        return targets
