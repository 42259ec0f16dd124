# SPDX-License-Identifier: MIT
"""Hessian-vector products of one layer at a time, on a kept graph of the gradient, term by term of the loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bitwright.errors import TrainingError

Term = Callable[[], Tensor]
Loss = Tensor | Term | Sequence[Term]
"""A scalar, a function that returns one, or several such functions whose sum is the loss."""


class Products:
    """Products of the loss's Hessian over each parameter by itself.

    The gradient is differentiated again for each product, but its graph is built once, and kept until another term's is asked
    for: the memory is that of one term's graph, however many terms and products there are.

    Args:
        loss: Its terms depend on the parameters and are differentiable twice. Those that are functions are called anew
            whenever their graph is built.
        parameters: Tensors that require grad, by name.
    """

    def __init__(self, loss: Loss, parameters: Mapping[str, Tensor]) -> None:
        self.terms: list[Tensor | Term] = [loss] if isinstance(loss, Tensor) or callable(loss) else list(loss)
        self.parameters = parameters
        self._term: int | None = None
        self._gradients: dict[str, Tensor | None] = {}

    def __len__(self) -> int:
        return len(self.terms)

    def of(self, term: int, name: str, vector: Tensor) -> Tensor | None:
        """H v of one term over one parameter, shaped as it; None for zero.

        Raises:
            TrainingError: If the loss is not finite.
            ValueError: If the loss is no scalar.
        """
        if term != self._term:
            self._gradients, self._term = {}, None  # before the next graph is built, not after
            self._gradients, self._term = self._differentiate(self.terms[term]), term
        gradient = self._gradients[name]
        if gradient is None or not gradient.requires_grad:
            return None
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            gradient, self.parameters[name], grad_outputs=vector, retain_graph=True, allow_unused=True
        )
        return found[0]

    def _differentiate(self, term: Tensor | Term) -> dict[str, Tensor | None]:
        """The gradient by each parameter, with the graph to differentiate it again."""
        with torch.enable_grad():
            value = term if isinstance(term, Tensor) else term()
            if value.numel() != 1:
                raise ValueError(f"expected a scalar loss, got shape {tuple(value.shape)}.")
            if not torch.isfinite(value).all():
                raise TrainingError(
                    f"the loss is {value.item()}, so it has no Hessian: check the images and the weights."
                )
            if not self.parameters or not value.requires_grad:
                return dict.fromkeys(self.parameters)
            # By autograd.grad rather than backward(create_graph=True): that would tie .grad and the graph into a cycle.
            gradients = torch.autograd.grad(
                value.sum(), list(self.parameters.values()), create_graph=True, allow_unused=True
            )
        return dict(zip(self.parameters, gradients, strict=True))
