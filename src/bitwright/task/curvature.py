# SPDX-License-Identifier: MIT
"""The curvature of a loss at the outputs of a network: S, the Hessian of each image's loss by what the network says of it.

Each kind gives S twice: as products with vectors, and as a sum of squares (`factors.py`) that a trace is sampled from.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor

from bitwright.task.factors import Axes, Classes, Drawn, Factor, Vectors, output_count, rademacher

Loss = Callable[[Any, Any], Tensor]
"""From outputs (a tensor, or several by name) and targets of a batch to one number, the mean over its images, which do not
depend on each other."""

MAX_AXES = 1024
"""Outputs of one image up to which the axes are taken one by one; of more, random signs."""
MAX_DENSE_ELEMENTS = 2**26
"""Elements of all images' S together up to which they are computed whole: half a GiB."""


class Curvature(ABC):
    """The Hessian S of each image's loss by its outputs."""

    @abstractmethod
    def product(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        """S v of each image.

        Args:
            outputs: Shape (images, *outputs).
            targets: The targets of these images.
            vectors: Shaped as the outputs.
        """

    @abstractmethod
    def factor(self, outputs: Tensor, targets: Tensor, seed: int = 0) -> Factor:
        """S as a weighted sum of squares; arguments as of `product`, and the seed of what is drawn."""

    def in_a_row(self, sizes: tuple[int, ...]) -> Curvature | None:
        """The same of the sum of this loss over several outputs, which are given flattened, one behind the other.

        Args:
            sizes: How many numbers each has for an image.

        Returns:
            None where there is no closed form.
        """
        return None


@final
@dataclass(frozen=True)
class SoftmaxCurvature(Curvature):
    """Of the cross entropy of classes: diag(p) - p p^T, whatever the label."""

    def product(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        p = outputs.softmax(1)
        return p * (vectors - (p * vectors).sum(1, keepdim=True))

    def factor(self, outputs: Tensor, targets: Tensor, seed: int = 0) -> Factor:
        return Classes.of(outputs)


@final
@dataclass(frozen=True)
class DenseSoftmaxCurvature(Curvature):
    """Of the cross entropy of every pixel's class, over the number of pixels: diag(p) - p p^T of each pixel that has one.

    Its square root is too large to be looked at whole. Classes drawn for all pixels, from the p of each, make a direction of
    e_c - p, whose outer product is S in the mean, since pixels are drawn apart.

    Attributes:
        ignore_index: The target of pixels that do not count.
    """

    ignore_index: int

    def product(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        p = outputs.softmax(1)
        counted = self._counted(targets).to(p.dtype)
        return counted * p * (vectors - (p * vectors).sum(1, keepdim=True)) / targets[0].numel()

    def factor(self, outputs: Tensor, targets: Tensor, seed: int = 0) -> Factor:
        counted, pixels = self._counted(targets), targets[0].numel()
        # Image by image, since the maps of all of them in float64 would be the largest thing in memory.
        traces = [
            (some * (1 - output.double().softmax(0).square().sum(0))).sum() / pixels
            for output, some in zip(outputs, counted[:, 0], strict=True)
        ]
        trace = torch.stack(traces)

        def draw(image: int, generator: torch.Generator) -> tuple[Tensor, float]:
            p = outputs[image].double().softmax(0)
            uniform = torch.rand(p.shape[1:], generator=generator, dtype=torch.float64).to(p.device)
            chosen = (p.cumsum(0) < uniform).sum(0).clamp_max(len(p) - 1)
            vector = (-p).scatter_add_(0, chosen[None], torch.ones_like(uniform)[None])
            return counted[image] * vector / (pixels * trace[image]).sqrt(), 1.0

        return Drawn(trace[:, None], draw, seed)

    def _counted(self, targets: Tensor) -> Tensor:
        """Shape (images, 1, *positions)."""
        return (targets != self.ignore_index).unsqueeze(1)


@final
@dataclass(frozen=True)
class SquaredCurvature(Curvature):
    """Of half the mean squared difference: the identity over the number of outputs.

    Of several in a row it is a diagonal, for each number one over how many its own output has.

    Attributes:
        sizes: Of several outputs in a row, the numbers of each, over which its own mean is taken.
    """

    sizes: tuple[int, ...] = ()

    def product(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        return vectors * self._diagonal(outputs).to(vectors.dtype)

    def factor(self, outputs: Tensor, targets: Tensor, seed: int = 0) -> Factor:
        diagonal = self._diagonal(outputs)
        if output_count(outputs) <= MAX_AXES:
            return Axes(diagonal.flatten().expand(len(outputs), -1), tuple(outputs.shape[1:]))
        trace = len(self.sizes) or 1
        lengths = (diagonal / trace).sqrt()

        def draw(image: int, generator: torch.Generator) -> tuple[Tensor, float]:
            return rademacher(outputs[image], generator) * lengths, 1.0

        weights = torch.full((len(outputs), 1), float(trace), dtype=torch.float64, device=outputs.device)
        return Drawn(weights, draw, seed)

    def in_a_row(self, sizes: tuple[int, ...]) -> Curvature:
        return SquaredCurvature(sizes)

    def _diagonal(self, outputs: Tensor) -> Tensor:
        """Of one image, float64, shaped as its outputs."""
        sizes = self.sizes or (output_count(outputs),)
        parts = [torch.full((size,), 1 / size, dtype=torch.float64, device=outputs.device) for size in sizes]
        return torch.cat(parts).reshape(outputs.shape[1:])


@final
@dataclass(frozen=True)
class DifferentiatedCurvature(Curvature):
    """Of any loss that can be differentiated twice, found by differentiating it.

    It may have negative eigenvalues, and then the trace may be negative, too.

    Attributes:
        loss: The mean over images, which do not depend on each other.
    """

    loss: Loss

    def product(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        gradient, variable = _gradient(self.loss, outputs, targets)
        if not gradient.requires_grad:  # the loss is linear
            return torch.zeros_like(vectors)
        (found,) = torch.autograd.grad(gradient, variable, vectors, allow_unused=True)
        return torch.zeros_like(vectors) if found is None else found

    def factor(self, outputs: Tensor, targets: Tensor, seed: int = 0) -> Factor:
        outputs, count = outputs.double(), output_count(outputs)
        targets = targets.double() if targets.is_floating_point() else targets
        if len(outputs) * count**2 <= MAX_DENSE_ELEMENTS:
            axes = torch.eye(count, dtype=torch.float64, device=outputs.device).reshape(count, 1, *outputs.shape[1:])
            rows = [self.product(outputs, targets, axis.expand_as(outputs)).flatten(1) for axis in axes]
            return Vectors.eigenvectors(torch.stack(rows, 1), tuple(outputs.shape[1:]))

        def draw(image: int, generator: torch.Generator) -> tuple[Tensor, float]:
            # <J^T S u, J^T u> is the difference of the squares of J^T (S u / a + a u) / 2 and J^T (S u / a - a u) / 2, for any a:
            # one of the two, twice as large, is the difference in the mean.
            u = rademacher(outputs[image], generator)[None]
            bent = self.product(outputs[image : image + 1], targets[image : image + 1], u)
            a = (bent.norm() / u.norm()).sqrt().clamp_min(torch.finfo(torch.float64).tiny)
            sign = 1.0 - 2.0 * float(torch.randint(2, (), generator=generator))
            return ((bent / a + sign * a * u) / 2**0.5)[0], sign

        return Drawn(torch.ones(len(outputs), 1, dtype=torch.float64, device=outputs.device), draw, seed)


def gradient_factor(loss: Loss, outputs: Tensor, targets: Tensor) -> Factor:
    """The outer product of each image's gradient by its outputs: the empirical Fisher matrix."""
    targets = targets.double() if targets.is_floating_point() else targets
    return Vectors.single(_gradient(loss, outputs.double(), targets)[0].detach())


def _gradient(loss: Loss, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Of each image's own loss by its outputs, with the graph to differentiate it again; and what it was differentiated by."""
    with torch.enable_grad():
        variable = outputs.detach().requires_grad_()
        value = loss(variable, targets) * len(outputs)
        (gradient,) = torch.autograd.grad(value, variable, create_graph=True)
    return gradient, variable
