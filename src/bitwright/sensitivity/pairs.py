# SPDX-License-Identifier: MIT
"""Pairs of an image and a class: the terms that a Gauss-Newton trace is a weighted sum of, and their gradient norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.sensitivity.checkpoint import Partial
from bitwright.sensitivity.gradient_norms import gradient_norms
from bitwright.sensitivity.loss import GraphLoss
from bitwright.sensitivity.processes import in_turns


@dataclass(frozen=True)
class Pairs:
    """Directions among the logits of each image, one for each class, and their weights.

    With p the softmax of an image's logits, the cross entropy has the Hessian diag(p) - p p^T by the logits, which is the sum
    over classes c of p_c (e_c - p)(e_c - p)^T: what the gradients e_c - p would give if labels were drawn from p. A trained
    network is sure of most images, so few pairs carry most of the weight.

    Attributes:
        weights: Shape (images, classes), float64: p_c |e_c - p|^2, or |e_c - p|^2 for the true label and 0 for the others.
        probabilities: p, of the same shape.
    """

    weights: Tensor
    probabilities: Tensor

    @classmethod
    def of_model(cls, logits: Tensor) -> Pairs:
        """Labels drawn from the network's own distribution: the Gauss-Newton matrix, which is the Fisher matrix."""
        probabilities = logits.double().softmax(1)
        return cls(probabilities * _squared_lengths(probabilities), probabilities)

    @classmethod
    def of_labels(cls, logits: Tensor, labels: Tensor) -> Pairs:
        """The true labels: the empirical Fisher matrix."""
        probabilities = logits.double().softmax(1)
        true = torch.zeros_like(probabilities).scatter_(1, labels.to(logits.device).unsqueeze(1), 1)
        return cls(true * _squared_lengths(probabilities), probabilities)

    def directions(self, indices: Tensor) -> Tensor:
        """Unit vectors along e_c - p, shape (pairs, classes); pairs are numbered image by image."""
        classes = self.weights.shape[1]
        vectors: Tensor = -self.probabilities[indices // classes]
        vectors[torch.arange(len(indices), device=vectors.device), indices % classes] += 1
        return F.normalize(vectors, dim=1, eps=torch.finfo(torch.float64).tiny)


def _squared_lengths(probabilities: Tensor) -> Tensor:
    """|e_c - p|^2 for each class: (1 - p_c)^2 + the sum of the others' squares, which loses no digits near one."""
    squares = probabilities.square()
    others = squares.sum(1, keepdim=True) - squares
    lengths: Tensor = (1 - probabilities).square() + others.clamp_min(0)
    return lengths


class PairNorms:
    """The gradient norms of pairs, each computed once.

    Args:
        loss: The network, and the images.
        pairs: Of those images.
        micro_batch: Pairs in one backward pass: what bounds the memory.
        partial: Norms computed before, and where to keep them.
        computed: Called with the number of pairs after each pass (of each process).
    """

    def __init__(
        self,
        loss: GraphLoss,
        pairs: Pairs,
        micro_batch: int,
        partial: Partial | None = None,
        computed: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.loss = loss
        self.pairs = pairs
        self.micro_batch = micro_batch
        self.partial = partial or Partial()
        self.computed = computed
        self.indices = torch.empty(0, dtype=torch.int64)
        self.norms = torch.empty(0, 2 * len(loss.weights), dtype=torch.float64)
        self._slots: dict[int, int] = {}
        indices = self.partial.found("indices", None, integers=True)
        norms = None if indices is None else self.partial.found("norms", len(indices), self.norms.shape[1])
        if indices is not None and norms is not None:
            self._remember(indices, norms)

    def __len__(self) -> int:
        return len(self.indices)

    def of(self, indices: Tensor) -> Tensor:
        """Squared norms of the pairs' gradients.

        Args:
            indices: Pairs, int64 on the CPU; they may repeat.

        Returns:
            Shape (pairs, 2 x layers), float64: by the weights of each layer, then by the tensors that they read.
        """
        missing = [index for index in dict.fromkeys(indices.tolist()) if index not in self._slots]
        passes = torch.split(torch.tensor(missing, dtype=torch.int64), self.micro_batch) if missing else ()
        for turn in in_turns(passes, self._compute, lambda some: (len(some), self.norms.shape[1])):
            for some, norms in turn:
                self._remember(some, norms)
            self.partial.keep(lambda: {"indices": self.indices, "norms": self.norms})
            self.computed(len(self))
        return self.norms[[self._slots[index] for index in indices.tolist()]]

    def _remember(self, indices: Tensor, norms: Tensor) -> None:
        self._slots.update((index, len(self) + position) for position, index in enumerate(indices.tolist()))
        self.indices = torch.cat([self.indices, indices])
        self.norms = torch.cat([self.norms, norms])

    def _compute(self, indices: Tensor) -> Tensor:
        images = self.loss.images[(indices // self.pairs.weights.shape[1]).to(self.loss.images.device)]
        directions = self.pairs.directions(indices.to(self.pairs.weights.device))
        return torch.cat(gradient_norms(self.loss, images, directions), 1).cpu()
