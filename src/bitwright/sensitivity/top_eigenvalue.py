# SPDX-License-Identifier: MIT
"""The largest eigenvalue of each layer's block of the Hessian, by Lanczos' method, with a bound on its error."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from bitwright.errors import TrainingError
from bitwright.processes import in_turns, rank_and_size
from bitwright.progress import Progress, silent
from bitwright.sensitivity.checkpoint import Partial
from bitwright.sensitivity.estimate import Estimate, relative
from bitwright.sensitivity.probing import SamplingLimits, layer_seed
from bitwright.sensitivity.products import Loss, Products

MAX_STEPS = 100
_BASIS_ELEMENTS = 2**26
_GROUP = 8

Tell = Callable[[int, float], None]
"""Told the number of new products and the largest relative residual."""

# Stop a little below the target, since the residual is computed again, and differs in the last digits.
_MARGIN = 0.9


def top_eigenvalue(
    loss: Loss,
    parameters: Mapping[str, Tensor],
    *,
    limits: SamplingLimits | None = None,
    seed: int = 0,
    partial: Partial | None = None,
    progress: Progress = silent,
) -> dict[str, Estimate]:
    """The eigenvalue of largest magnitude of the loss's Hessian over each parameter by itself.

    HAWQ-V1 iterates powers; Lanczos' method searches the whole space that the same products span, so it needs fewer. With
    full reorthogonalisation, since lost orthogonality would return the same eigenvalue again and again.

    Args:
        loss: As for `hutchinson_trace`.
        parameters: Weights by layer name, of any shape, each requiring grad.
        limits: A layer stops when its residual is at most `relative_error` times its eigenvalue, or after `max_probes`
            products, or `min_probes` of them once the time has passed.
        seed: The seed of the start vectors; a layer's depends on its name, not on the other layers.
        partial: Layers finished before, and where to keep them.
        progress: Called with the layers finished and their number; the largest relative residual of those at work as
            `relative_error`, and the products so far as `products`.

    Returns:
        By layer, in the order of `parameters`. `standard_error` is the residual |H v - value v| of the unit vector v
        found: no statistics, but a bound, within which some eigenvalue lies. To rounding, `value` is never beyond the
        largest. What no residual tells is whether a larger one was missed, which takes a start vector nearly orthogonal to
        its eigenvector. `samples` counts products.

    Raises:
        TrainingError: If the loss or a product is not finite.
        ValueError: If the loss is no scalar.

    Source:
        Dong et al. 2019, HAWQ, arXiv:1905.03696, section 3.1, for the metric; Golub and Van Loan 2013, Matrix Computations,
        section 10.1, for Lanczos; Parlett 1998, The Symmetric Eigenvalue Problem, theorem 4.5.1, for the bound.

    >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> found = top_eigenvalue((weight**4).sum() / 12, {"layer": weight})["layer"]  # the eigenvalues are 1 and 4
    >>> abs(found.value - 4.0) <= found.standard_error <= 0.05 * found.value
    True
    """
    limits = limits or SamplingLimits(max_probes=MAX_STEPS)
    partial = partial or Partial()
    products = Products(loss, parameters)
    end = time.monotonic() + limits.max_seconds
    known = {name: row for name in parameters if (row := partial.found(name, 3)) is not None}
    finished, made = len(known), 0

    def work(group: tuple[str, ...]) -> Tensor:
        return _eigenvalues(products, group, limits, end, seed, tell)

    def tell(count: int, error: float) -> None:
        nonlocal made
        made += count
        progress(finished, len(parameters), relative_error=error, products=made)

    left = [name for name in parameters if name not in known]
    for turn in in_turns(_groups(left, parameters, len(products)), work, lambda group: (len(group), 3)):
        for group, rows in turn:
            for name, row in zip(group, rows, strict=True):
                if not torch.isfinite(row).all():
                    raise TrainingError(
                        f"the Hessian of layer '{name}' is not finite: check the weights and the images for huge values."
                    )
                known[name] = row
        partial.keep(lambda: known)
        finished = len(known)
        tell(0, max(relative(float(row[1]), float(row[0])) for row in known.values()))
    return {name: _estimate(known[name], limits.relative_error) for name in parameters}


def _estimate(row: Tensor, target: float) -> Estimate:
    value, residual, count = row.tolist()
    return Estimate(value, residual, int(count), relative(residual, value) <= target)


def _groups(names: Sequence[str], parameters: Mapping[str, Tensor], terms: int) -> list[tuple[str, ...]]:
    """Layers that advance together.

    With one term of the loss its graph is kept, and each layer goes by itself. With several, a graph is built for each
    product, so layers share it: up to eight, since results are kept when a group is finished, as many as their bases fit in
    memory, and as leave some for each process.
    """
    most = min(_GROUP, math.ceil(len(names) / rank_and_size()[1])) if terms > 1 else 1
    groups: list[tuple[str, ...]] = []
    group: list[str] = []
    elements = 0
    for name in names:
        size = parameters[name].numel() * 20  # products that most layers need
        if group and (len(group) == most or elements + size > _BASIS_ELEMENTS):
            groups.append(tuple(group))
            group, elements = [], 0
        group.append(name)
        elements += size
    return [*groups, tuple(group)] if group else groups


def _eigenvalues(
    products: Products, names: Sequence[str], limits: SamplingLimits, end: float, seed: int, tell: Tell
) -> Tensor:
    """Rows of eigenvalue, residual and number of products."""
    spaces = {}
    for name in names:
        like = products.variable(0, name)
        generator = torch.Generator(like.device).manual_seed(layer_seed(seed, name))
        start = torch.randn(like.numel(), generator=generator, device=like.device, dtype=like.dtype)
        spaces[name] = Lanczos(start)
    # The last product is that of the vector found.
    growing = list(names)
    while growing:
        for name, product in _multiply(products, {name: spaces[name].basis[-1] for name in growing}).items():
            spaces[name].advance(product)
        late = time.monotonic() >= end
        most = (limits.min_probes if late else limits.max_probes) - 1
        errors = {name: spaces[name].relative_residual() for name in growing}
        tell(len(growing), max(errors.values()))
        growing = [
            name
            for name in growing
            if not spaces[name].exhausted
            and errors[name] > _MARGIN * limits.relative_error
            and len(spaces[name].diagonal) < most
        ]
    vectors = {name: space.vector() for name, space in spaces.items()}
    counts = {name: len(space.diagonal) + 1 for name, space in spaces.items()}
    del spaces
    rows = []
    for name, product in _multiply(products, vectors).items():
        vector = vectors[name].double()
        value = float(product @ vector)
        rows.append([value, float((product - value * vector).norm()), float(counts[name])])
    tell(len(names), 0.0)
    return torch.tensor(rows, dtype=torch.float64)


def _multiply(products: Products, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """H v of each layer, flat and in float64, summed over the terms of the loss."""
    found = {
        name: torch.zeros(len(vector), dtype=torch.float64, device=vector.device) for name, vector in vectors.items()
    }
    for term in range(len(products)):
        for name, vector in vectors.items():
            product = products.of(term, name, vector.reshape(products.variable(term, name).shape))
            if product is not None:
                found[name] += product.flatten()
    return found


class Lanczos:
    """The space that a start vector and its products with a symmetric matrix H span, and H on it.

    Args:
        start: A vector, not zero.

    Attributes:
        basis: Orthonormal vectors; the last one is to be multiplied next.
        diagonal: The diagonal of H in that basis; the next diagonals are `beside`, all others zero.
        exhausted: Whether H leaves the space as it is, so that its eigenvalues there are H's.
    """

    def __init__(self, start: Tensor) -> None:
        self.basis = [start / start.norm()]
        self.diagonal: list[float] = []
        self.beside: list[float] = []
        self.exhausted = False

    def advance(self, product: Tensor) -> None:
        """Take H times the last vector of the basis, in float64."""
        self.diagonal.append(float(product @ self.basis[-1].double()))
        rest = product
        for _ in range(2):  # twice is enough to be orthogonal to rounding (Giraud et al. 2005)
            for vector in self.basis:
                known = vector.double()
                rest = rest - (rest @ known) * known
        self.beside.append(float(rest.norm()))
        rounding = torch.finfo(self.basis[0].dtype).eps * len(rest) ** 0.5 * float(product.norm())
        self.exhausted = self.beside[-1] <= rounding or len(self.basis) == len(rest)
        if not self.exhausted and math.isfinite(self.beside[-1]):
            self.basis.append((rest / self.beside[-1]).to(self.basis[0].dtype))
        else:
            self.exhausted = True

    def relative_residual(self) -> float:
        """Of the largest eigenvalue in the space, over its magnitude."""
        value, weights = self._top()
        return 0.0 if self.exhausted else relative(self.beside[-1] * abs(float(weights[-1])), value)

    def vector(self) -> Tensor:
        """The unit vector of that eigenvalue."""
        found = torch.zeros_like(self.basis[0], dtype=torch.float64)
        for weight, vector in zip(self._top()[1].tolist(), self.basis, strict=False):
            found += weight * vector
        return torch.nn.functional.normalize(found, dim=0).to(self.basis[0].dtype)

    def _top(self) -> tuple[float, Tensor]:
        size = len(self.diagonal)
        matrix = torch.diag(torch.tensor(self.diagonal, dtype=torch.float64))
        matrix += torch.diag(torch.tensor(self.beside[: size - 1], dtype=torch.float64), 1)
        matrix += torch.diag(torch.tensor(self.beside[: size - 1], dtype=torch.float64), -1)
        values, vectors = torch.linalg.eigh(torch.nan_to_num(matrix))
        top = int(values.abs().argmax())
        return float(values[top]), vectors[:, top]
