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
OwnTerm = Callable[[], tuple[Tensor, Mapping[str, Tensor]]]
"""A function that returns a scalar and the tensors, by name, by which it is to be differentiated: its own, made anew."""


class Products:
    """Products of the loss's Hessian over each variable by itself.

    The gradient is differentiated again for each product, but its graph is built once, and kept until another term's is asked
    for: the memory is that of one term's graph, however many terms and products there are.

    Args:
        loss: Its terms depend on the parameters and are differentiable twice. Those that are functions are called anew
            whenever their graph is built.
        parameters: Tensors that require grad, by name; None where each term returns its own.
    """

    def __init__(self, loss: Loss | Sequence[OwnTerm], parameters: Mapping[str, Tensor] | None) -> None:
        self.terms: list[Tensor | Term | OwnTerm] = [loss] if isinstance(loss, Tensor) or callable(loss) else list(loss)
        self.parameters = parameters
        self._term: int | None = None
        self._variables: Mapping[str, Tensor] = {}
        self._gradients: dict[str, Tensor | None] = {}

    def __len__(self) -> int:
        return len(self.terms)

    def variable(self, term: int, name: str) -> Tensor:
        """What a term is differentiated by; raises as `of` does."""
        self._build(term)
        return self._variables[name]

    def of(self, term: int, name: str, vector: Tensor) -> Tensor | None:
        """H v of one term over one variable, shaped as it; None for zero.

        Raises:
            TrainingError: If the loss is not finite.
            ValueError: If the loss is no scalar.
        """
        self._build(term)
        gradient = self._gradients[name]
        if gradient is None or not gradient.requires_grad:
            return None
        found: tuple[Tensor | None, ...] = torch.autograd.grad(
            gradient, self._variables[name], grad_outputs=vector, retain_graph=True, allow_unused=True
        )
        return found[0]

    def _build(self, term: int) -> None:
        """The gradient of a term by each variable, with the graph to differentiate it again."""
        if term == self._term:
            return
        self._gradients, self._variables, self._term = {}, {}, None  # before the next graph is built, not after
        with torch.enable_grad():
            value, variables = self._value(self.terms[term])
            if value.numel() != 1:
                raise ValueError(f"expected a scalar loss, got shape {tuple(value.shape)}.")
            if not torch.isfinite(value).all():
                raise TrainingError(
                    f"the loss is {value.item()}, so it has no Hessian: check the images and the weights."
                )
            gradients: Sequence[Tensor | None] = [None] * len(variables)
            if variables and value.requires_grad:
                # By autograd.grad rather than backward(create_graph=True): that would tie .grad and the graph into a cycle.
                gradients = torch.autograd.grad(
                    value.sum(), list(variables.values()), create_graph=True, allow_unused=True
                )
        self._gradients, self._variables = dict(zip(variables, gradients, strict=True)), variables
        self._term = term

    def _value(self, term: Tensor | Term | OwnTerm) -> tuple[Tensor, Mapping[str, Tensor]]:
        made = term if isinstance(term, Tensor) else term()
        if isinstance(made, Tensor):
            assert self.parameters is not None
            return made, self.parameters
        return made
