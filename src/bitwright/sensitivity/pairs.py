# SPDX-License-Identifier: MIT
"""The gradient norms of pairs, of an image and a direction at its outputs, that a Gauss-Newton trace is a weighted sum of."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from bitwright.processes import in_turns
from bitwright.sensitivity.checkpoint import Partial
from bitwright.sensitivity.gradient_norms import gradient_norms
from bitwright.sensitivity.loss import GraphLoss
from bitwright.task.factors import Factor


class PairNorms:
    """The gradient norms of pairs, each computed once.

    Args:
        loss: The network, and the images.
        factor: The factor of the curvature at the outputs of those images; it has the directions.
        micro_batch: Pairs in one backward pass: what bounds the memory.
        partial: Norms computed before, and where to keep them.
        computed: Called with the number of pairs after each pass (of each process).
    """

    def __init__(
        self,
        loss: GraphLoss,
        factor: Factor,
        micro_batch: int,
        partial: Partial | None = None,
        computed: Callable[[int], object] = lambda count: None,
    ) -> None:
        self.loss = loss
        self.factor = factor
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
        """Squared norms of the pairs' gradients, with the signs of the pairs.

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
        images = self.loss.images[(indices // self.factor.columns).to(self.loss.images.device)]
        directions, signs = self.factor.directions(indices.to(self.factor.weights.device))
        return (torch.cat(gradient_norms(self.loss, images, directions), 1) * signs[:, None]).cpu()
