# SPDX-License-Identifier: MIT
"""The largest eigenvalue of each image's Hessian over what a layer reads, of all images of a batch at once.

Images do not depend on each other, so one product of the whole batch is one of every image's block. The vectors are as large
as the tensors that layers read, too large to keep many of: so not Lanczos' method, but conjugate gradients that keep three
for each image (LOBPCG), whose Rayleigh quotients rise to the largest eigenvalue.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from bitwright.errors import TrainingError
from bitwright.processes import in_turns
from bitwright.progress import Progress, silent
from bitwright.sensitivity.checkpoint import Partial
from bitwright.sensitivity.estimate import Estimate, relative
from bitwright.sensitivity.loss import GraphLoss
from bitwright.sensitivity.probing import SamplingLimits, layer_seed
from bitwright.sensitivity.products import Products

MAX_STEPS = 100

Multiply = Callable[[Tensor], Tensor]
"""H v of each image: shape (images, elements) to the same."""
Tell = Callable[[int, float], None]
"""Told the number of new products and the mean residual over the mean eigenvalue."""

# Stop a little below the target, since the residual is computed again, and differs in the last digits.
_MARGIN = 0.9

# A direction of which less than this is left beside the others would be made of rounding.
_INDEPENDENT = 1e-3


def top_activation_eigenvalue(
    loss: GraphLoss,
    *,
    micro_batch: int = 64,
    limits: SamplingLimits | None = None,
    seed: int = 0,
    partial: Partial | None = None,
    progress: Progress = silent,
) -> dict[str, Estimate]:
    """The largest eigenvalue of one image's loss over the tensor that each layer reads, mean over images.

    Times the squared perturbation of that tensor, it is twice the largest increase of the mean loss, to second order, that
    perturbations of one size in all images can cause. Networks that are not piecewise linear may have negative eigenvalues,
    too, of whatever magnitude: along these the loss falls, and they are not looked for.

    Args:
        loss: The network, images and labels.
        micro_batch: Images in one graph, and in one product: what bounds the memory.
        limits: A layer stops, in each micro-batch, when the mean residual of its images is at most `relative_error` times
            their mean eigenvalue, or after `max_probes` products, or `min_probes` of them once the time has passed.
        seed: The seed of the start vectors.
        partial: Layers and micro-batches finished before, and where to keep them.
        progress: Called with the layers finished, counted in each micro-batch, and their number; the relative residual of
            the one at work as `relative_error`, and the products so far as `products`.

    Returns:
        By layer, in the order of the graph. `standard_error` is the mean over images of the residual |H v - value v|, a bound
        as for `top_eigenvalue`; `data_standard_error` that of the images; `samples` counts products.

    Raises:
        TrainingError: If the loss or a product is not finite.

    Source:
        Knyazev 2001, doi:10.1137/S1064827500366124, for LOBPCG; Parlett 1998, The Symmetric Eigenvalue Problem,
        theorem 4.5.1, for the bound.
    """
    limits = limits or SamplingLimits(max_probes=MAX_STEPS)
    partial = partial or Partial()
    products = Products(loss.activation_terms(micro_batch), None)
    end = time.monotonic() + limits.max_seconds
    tasks = [(term, name) for term in range(len(products)) for name in loss.weights]
    known = {task: kept for task in tasks if (kept := partial.found(f"{task[0]}/{task[1]}", 4)) is not None}
    made = 0

    def work(task: tuple[int, str]) -> Tensor:
        term, name = task
        read = products.variable(term, name)
        generator = torch.Generator(read.device).manual_seed(layer_seed(seed, f"{name}/{term}"))
        start = torch.randn(len(read), read[0].numel(), generator=generator, device=read.device, dtype=read.dtype)

        def multiply(vectors: Tensor) -> Tensor:
            product = products.of(term, name, vectors.reshape(read.shape))
            # The loss is a mean over all images, of which each block is one's.
            return torch.zeros_like(vectors) if product is None else product.flatten(1) * len(loss.images)

        return _sums(*largest_eigenvalues(multiply, start, limits, end, tell))

    def tell(count: int, error: float) -> None:
        nonlocal made
        made += count
        progress(len(known), len(tasks), relative_error=error, products=made)

    for turn in in_turns([task for task in tasks if task not in known], work, lambda task: (4,)):
        for task, row in turn:
            if not torch.isfinite(row).all():
                raise TrainingError(
                    f"the Hessian over what layer '{task[1]}' reads is not finite: check the weights and the images for huge "
                    "values."
                )
            known[task] = row
        partial.keep(lambda: {f"{term}/{name}": row for (term, name), row in known.items()})
        tell(0, relative(float(row[2]), float(row[0])))
    return {
        name: _estimate([known[term, name] for term in range(len(products))], len(loss.images), limits.relative_error)
        for name in loss.weights
    }


def _sums(values: Tensor, residuals: Tensor, count: int) -> Tensor:
    """Over images: of the eigenvalues, their squares and the residuals; and the number of products."""
    sums = [values.sum(), values.square().sum(), residuals.sum()]
    return torch.stack([*sums, torch.tensor(float(count), dtype=torch.float64, device=values.device)]).cpu()


def _estimate(rows: list[Tensor], images: int, target: float) -> Estimate:
    total, squares, residual, count = torch.stack(rows).sum(0).tolist()
    mean, spread = total / images, None
    if images > 1:
        spread = math.sqrt(max(squares / images - mean**2, 0.0) / (images - 1))
    return Estimate(
        mean, residual / images, int(count), relative(residual, total) <= target, data_standard_error=spread
    )


def largest_eigenvalues(
    multiply: Multiply, start: Tensor, limits: SamplingLimits, end: float, tell: Tell
) -> tuple[Tensor, Tensor, int]:
    """Largest eigenvalues, by value and not by magnitude, of several symmetric matrices.

    Args:
        multiply: By all of them, shape (matrices, elements).
        start: A tensor of the same shape, no row zero.
        limits: When to stop.
        end: The time (of `time.monotonic`) after which no more than the least products are made.
        tell: See `Tell`.

    Returns:
        The eigenvalues and the residuals |H v - value v| of unit vectors v, float64 of shape (matrices,); and the products.
    """
    best = _unit(start)
    image = multiply(best)
    before = before_image = torch.zeros_like(best)
    count = 1
    while True:
        value = _inner(best, image)
        rest = image - value.to(best.dtype)[:, None] * best
        residual = rest.double().norm(dim=1)
        error = relative(float(residual.sum()), float(value.sum()))
        tell(1, error)
        most = (limits.min_probes if time.monotonic() >= end else limits.max_probes) - 1
        # The last product is that of the vector found.
        if not error > _MARGIN * limits.relative_error or count >= most:
            break
        rounding = 8 * torch.finfo(best.dtype).eps * image.double().norm(dim=1)
        way = _unit(_orthogonal(rest, best)) * (residual > rounding)[:, None]
        way_image = multiply(way)
        count += 1
        # What `before` has along the others goes, of it and of its product alike; and again, since rounding leaves some.
        whole = _length(before)
        for _ in range(2):
            for one, its_image in ((best, image), (way, way_image)):
                part = _inner(before, one).to(best.dtype)[:, None]
                before, before_image = before - part * one, before_image - part * its_image
        length = _length(before)
        kept = (length > _INDEPENDENT * whole) / length
        before, before_image = before * kept, before_image * kept
        vectors, images = torch.stack([best, way, before], 1), torch.stack([image, way_image, before_image], 1)
        small = (vectors.double() @ images.double().mT).nan_to_num()
        # A direction that is zero has a zero row, whose eigenvalue would beat negative ones: it is put below all others.
        none = torch.stack([_length(vector)[:, 0] < _INDEPENDENT for vector in (best, way, before)], 1)
        small = small - torch.diag_embed(none * (1 + 2 * small.flatten(1).norm(dim=1, keepdim=True)))
        chosen = torch.linalg.eigh((small + small.mT) / 2).eigenvectors[:, :, -1]
        # Where rounding is all that is left, the vector stays.
        chosen = torch.where((residual > rounding)[:, None], chosen, chosen.new_tensor([1.0, 0.0, 0.0]))
        chosen = chosen.to(best.dtype)[:, :, None]
        before, before_image = (chosen[:, 1:] * vectors[:, 1:]).sum(1), (chosen[:, 1:] * images[:, 1:]).sum(1)
        best, image = chosen[:, 0] * best + before, chosen[:, 0] * image + before_image
        length = _length(best)
        best, image = best / length, image / length
    image = multiply(best)
    value = _inner(best, image)
    residual = (image.double() - value[:, None] * best.double()).norm(dim=1)
    tell(1, relative(float(residual.sum()), float(value.sum())))
    return value, residual, count + 1


def _inner(one: Tensor, other: Tensor) -> Tensor:
    """Of each row, in float64."""
    found: Tensor = torch.linalg.vecdot(one.double(), other.double())
    return found


def _length(rows: Tensor) -> Tensor:
    """To divide by: of each row, shape (matrices, 1), and of zero rows the smallest number."""
    norms: Tensor = rows.double().norm(dim=1, keepdim=True)
    return norms.to(rows.dtype).clamp_min(torch.finfo(rows.dtype).tiny)


def _unit(rows: Tensor) -> Tensor:
    """Of length one, or zero where they are zero."""
    unit: Tensor = rows / _length(rows)
    return unit


def _orthogonal(rows: Tensor, to: Tensor) -> Tensor:
    """Without the part along unit vectors; twice, since rounding leaves some."""
    for _ in range(2):
        rows = rows - _inner(rows, to).to(rows.dtype)[:, None] * to
    return rows
