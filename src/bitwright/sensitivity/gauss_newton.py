# SPDX-License-Identifier: MIT
"""Gauss-Newton and empirical Fisher traces of all layers at once, from gradient norms of single images.

The Gauss-Newton matrix of a layer is the mean over images of J^T S J, with J the Jacobian of the outputs and S the Hessian of
the loss by them: diag(p) - p p^T for the cross entropy, the identity for squared differences. S is a weighted sum of squares
(see `bitwright.task.factors`), so the trace is the weighted sum of squared gradient norms, and one backward pass gives those of a
batch of pairs, of an image and a direction at its outputs, for every layer.

**It is the Hessian trace** where outputs are piecewise linear in each layer's weights by themselves, and in each tensor: the
term that Gauss-Newton drops has their second derivatives, which are zero. Convolutions, batch norm with running statistics,
clamps, sums, pooling and concatenations are all of that kind. It is so in any network, too, where the loss has no gradient at the
outputs, as when the network is compared with itself. Elsewhere the two differ, for layers before a curved operation, by what is
dropped.

Two things make it cheap. All layers share each pass, and no probe's noise: norms are computed, not estimated. And passes go
where the weight is: pairs that carry more than their share are all computed, of the others some are drawn in proportion to
their weight, equally many from each stretch of images. Where few pairs are left, all are computed and the trace is exact. Outputs
with very many directions, as those of segmenters, have them drawn at random, too.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.errors import TrainingError
from bitwright.processes import any_process
from bitwright.progress import Progress, silent
from bitwright.sensitivity.checkpoint import Partial
from bitwright.sensitivity.estimate import Estimate, relative
from bitwright.sensitivity.loss import GraphLoss
from bitwright.sensitivity.pairs import PairNorms
from bitwright.sensitivity.probing import SamplingLimits
from bitwright.task.curvature import gradient_factor
from bitwright.task.factors import Factor

MAX_PAIRS = 10_000
_FIRST_ROUND = 128
_STRATA = (16, 64)
_GROWTH = (1.25, 2.0)


@dataclass(frozen=True)
class LayerCurvature:
    """Traces of one layer.

    Attributes:
        weights: The weights of the mean loss, over the layer's weights.
        activations: The activations of one image's loss, over the tensor that the layer reads; mean over images.
    """

    weights: Estimate
    activations: Estimate


def gauss_newton_trace(
    loss: GraphLoss,
    *,
    limits: SamplingLimits | None = None,
    micro_batch: int = 64,
    seed: int = 0,
    partial: Partial | None = None,
    progress: Progress = silent,
) -> dict[str, LayerCurvature]:
    """Estimate, or compute, the trace of the Gauss-Newton matrix over each layer's weights and over what it reads.

    For piecewise linear networks these are the traces of the Hessian's blocks.

    Args:
        loss: The network, images and targets; labels do not matter to a softmax.
        limits: Its probes are pairs of an image and a direction at its outputs (of classes, as many as there are), and the same
            pairs serve all layers. A `relative_error` of zero computes all of them, unless directions are drawn. Time is looked
            at between rounds.
        micro_batch: Pairs in one backward pass: what bounds the memory.
        seed: The seed of the draws.
        partial: Gradient norms computed before, and where to keep them.
        progress: Called after each backward pass with the pairs done, those expected in all, and the largest relative
            error of a layer as `relative_error`.

    Returns:
        By layer, in the order of the graph. `standard_error` is that of the draws, `data_standard_error` that of the
        images (from above, unless all pairs were computed).

    Raises:
        TrainingError: If outputs or gradients are not finite.

    Source:
        Schraudolph 2002, doi:10.1162/08997660260028683; Botev et al. 2017, arXiv:1706.03662, section 3, for the equality
        with the Hessian's blocks; Goodfellow 2015, arXiv:1510.01799, for the norms of single gradients.
    """
    factor = loss.curvature().factor(loss.all_outputs(micro_batch), loss.targets, seed)
    return _trace(loss, factor, limits or SamplingLimits(max_probes=MAX_PAIRS), micro_batch, seed, partial, progress)


def empirical_fisher_trace(
    loss: GraphLoss,
    *,
    limits: SamplingLimits | None = None,
    micro_batch: int = 64,
    seed: int = 0,
    partial: Partial | None = None,
    progress: Progress = silent,
) -> dict[str, LayerCurvature]:
    """The mean over images of the squared gradient norm of the loss, for each layer; arguments as `gauss_newton_trace`.

    One backward pass of the images computes it, where the images are few. It is no estimate of the Hessian, whatever its
    name suggests (Kunstner et al. 2019, arXiv:1905.12558): it vanishes where the images are fitted.

    Source:
        Kirkpatrick et al. 2017, arXiv:1612.00796, section 2.
    """
    factor = gradient_factor(loss.of, loss.all_outputs(micro_batch), loss.targets)
    return _trace(loss, factor, limits or SamplingLimits(max_probes=MAX_PAIRS), micro_batch, seed, partial, progress)


def _trace(
    loss: GraphLoss,
    factor: Factor,
    limits: SamplingLimits,
    micro_batch: int,
    seed: int,
    partial: Partial | None,
    progress: Progress,
) -> dict[str, LayerCurvature]:
    end = time.monotonic() + limits.max_seconds
    size = float(min(max(limits.min_probes, min(_FIRST_ROUND, 2 * len(loss.images))), limits.max_probes))
    sampler = WeightedSum(factor.weights.cpu(), size, factor.columns)
    state = {"expected": 0, "error": math.inf}
    norms = PairNorms(
        loss,
        factor,
        micro_batch,
        partial,
        lambda done: progress(done, max(done, int(state["expected"])), relative_error=state["error"]),
    )
    if limits.relative_error == 0:
        size = math.inf
    while True:
        size = min(size, float(limits.max_probes))
        state["expected"] = sampler.cost(size)
        found = sampler.estimate(norms.of, size, seed)
        errors = [relative(error, value) for value, error in zip(found.values, found.errors, strict=True)]
        state["error"] = max(errors, default=0.0)
        late = any_process(time.monotonic() >= end)
        if state["error"] <= limits.relative_error or size >= limits.max_probes or late:
            break
        growth = (state["error"] / limits.relative_error) ** 2
        size *= min(max(growth, _GROWTH[0]), _GROWTH[1])
    made = [
        Estimate(value, error, len(norms), relative(error, value) <= limits.relative_error, spread)
        for value, error, spread in zip(found.values, found.errors, found.spreads, strict=True)
    ]
    layers = list(loss.weights)
    if not all(math.isfinite(value) for value in found.values):
        broken = next(
            layers[index % len(layers)] for index, value in enumerate(found.values) if not math.isfinite(value)
        )
        raise TrainingError(f"the gradients of layer '{broken}' are not finite: check the weights and the images.")
    return {name: LayerCurvature(made[index], made[index + len(layers)]) for index, name in enumerate(layers)}


@dataclass(frozen=True)
class Sums:
    """Estimates of several sums over the same pairs: values, standard errors of the draws and of the images."""

    values: list[float]
    errors: list[float]
    spreads: list[float | None]


class WeightedSum:
    """The mean over images of sum_c w_nc g_nc, from as few g as will do.

    At size M, the pairs with w at least 1/M of the total are all taken. The rest, in the order of the images, is cut into strata
    of equal weight, and of each as many are drawn, with probability proportional to w, as M draws from all would have given,
    but at least two: how they differ tells the standard error. What differs between strata adds nothing to it, so that
    an image's own gradients may be as large as they like. No more than M + 32 pairs are taken altogether.

    Args:
        weights: w, shape (images, columns), on the CPU.
        first: The smallest M that will be asked for; there are at most half as many strata, within 16 to 64.
        columns: By which pairs are numbered. Where it is not the weights' own, an image has directions without end, each looked
            at by one draw alone: they are never all taken, and the one weight of the image is that of all together.

    Source:
        Cochran 1977, Sampling Techniques, chapter 5, for stratified sampling.
    """

    def __init__(self, weights: Tensor, first: float, columns: int | None = None) -> None:
        self.weights = weights
        self.columns = columns or weights.shape[1]
        self.endless = self.columns != weights.shape[1]
        positive = weights.flatten().nonzero()[:, 0]
        order = weights.flatten()[positive].argsort(descending=True, stable=True)
        self.indices = positive[order]
        self.sorted = weights.flatten()[self.indices]
        self.total = float(self.sorted.sum())
        self.first = first

    def cost(self, size: float) -> int:
        """Pairs that `estimate` looks at, draws counted singly."""
        certain = self._certain(size)
        return certain + self._strata(size, certain)[1]

    def estimate(self, norms: Callable[[Tensor], Tensor], size: float, seed: int) -> Sums:
        """The sums at size M.

        Args:
            norms: Gives g of pairs, shape (pairs, sums).
            size: M; infinite takes all pairs.
            seed: The seed of the draws.
        """
        certain = self._certain(size)
        images = len(self.weights)
        taken = self.indices[:certain]
        values = norms(taken)
        weighted = self.sorted[:certain, None] * values
        total = weighted.sum(0)
        whole = self.weights.sum(1)
        owners = taken // self.columns
        variance = torch.zeros_like(total)
        if certain < len(self.indices):
            mass = float(self.sorted[certain:].sum())
            strata, draws = self._strata(size, certain)
            drawn = self._draw(certain, strata, draws, seed)
            some = norms(drawn)
            total = total + mass * some.mean(0)
            by_stratum = some.reshape(-1, strata, some.shape[1])
            variance = (mass / images) ** 2 * by_stratum.var(0).mean(0) / len(some)
            # Jensen: (sum_c w g)^2 <= (sum_c w) (sum_c w g^2), which needs no more than one class of an image.
            owner = drawn // self.columns
            squares = (whole[owners, None] * weighted * values).sum(0)
            squares = squares + mass * (whole[owner, None] * some.square()).mean(0)
        else:
            by_image = torch.zeros(images, weighted.shape[1], dtype=weighted.dtype).index_add_(0, owners, weighted)
            squares = by_image.square().sum(0)
        mean = total / images
        spread: list[float | None] = [None] * len(mean)
        if images > 1:
            deviation = (squares / images - mean.square()).clamp_min(0) * images / (images - 1)
            spread = [*(deviation / images).sqrt().tolist()]
        return Sums(mean.tolist(), variance.sqrt().tolist(), spread)

    def _certain(self, size: float) -> int:
        """How many pairs are all taken."""
        if self.endless:
            return 0
        if size + 2 * _STRATA[0] >= len(self.indices):
            return len(self.indices)
        return int((self.sorted * size >= self.total).sum())

    def _strata(self, size: float, certain: int) -> tuple[int, int]:
        """How many strata the rest is cut into, and how many pairs are drawn from them altogether."""
        if certain == len(self.indices):
            return 0, 0
        wanted = size * float(self.sorted[certain:].sum()) / self.total
        strata = int(min(max(min(wanted, self.first) / 2, _STRATA[0]), _STRATA[1]))
        return strata, strata * max(2, int(wanted / strata))

    def _draw(self, certain: int, strata: int, count: int, seed: int) -> Tensor:
        """Pairs after the first `certain`, drawn with probability proportional to weight, with replacement.

        Once from each stratum, then again, so that more draws begin with the same ones.
        """
        rest = self.indices[certain:].sort().values
        cumulated = self.weights.flatten()[rest].cumsum(0)
        generator = torch.Generator().manual_seed(seed)
        uniform = torch.rand(count, generator=generator, dtype=torch.float64)
        place = (torch.arange(count) % strata + uniform) / strata * cumulated[-1]
        drawn = rest[torch.searchsorted(cumulated, place, right=True).clamp_max(len(rest) - 1)]
        # Of directions without end, each draw has the one of its own number.
        return drawn * self.columns + torch.arange(count) if self.endless else drawn
