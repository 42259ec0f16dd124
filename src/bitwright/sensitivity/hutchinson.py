# SPDX-License-Identifier: MIT
"""Hutchinson's estimate of each layer's Hessian trace, with the standard error that it reached.

The Hessian H of the loss over one layer's weights is never formed. With v of independent random signs, E[v^T H v] = tr(H),
and H v costs one more backward pass. Two choices make it cheap:

- **Probes of one layer at a time.** A probe of all layers at once adds the off-diagonal blocks v_i^T H_ij v_j to the variance of
  every layer: on a trained ResNet20, 12 times (median) the variance, and a longer backward pass besides.
- **One kept gradient graph.** The gradient is differentiated again for each probe, but built once; with several terms of the
  loss (micro-batches), once in each round of probes, so that memory is that of one micro-batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from bitwright.progress import Progress, silent
from bitwright.sensitivity.checkpoint import Partial
from bitwright.sensitivity.estimate import Estimate
from bitwright.sensitivity.loss import GraphLoss
from bitwright.sensitivity.probing import SamplingLimits, layer_seed, probe_layers
from bitwright.sensitivity.products import Loss, Products


def hutchinson_trace(
    loss: Loss,
    parameters: Mapping[str, Tensor],
    *,
    limits: SamplingLimits | None = None,
    seed: int = 0,
    partial: Partial | None = None,
    progress: Progress = silent,
) -> dict[str, Estimate]:
    """Estimate the trace of the loss's Hessian over each parameter by itself.

    Each layer's probes stop when their relative standard error is at most that of the limits; those that reach its
    `max_probes` first come back with `converged=False`. The error is measured against |mean|, so a negative trace counts like a
    positive one. It is the error of the probes alone: another batch has another trace.

    Leaves `.grad` of the parameters alone, and frees the graph on return. Batch norm belongs in eval mode, or the loss
    couples the images of the batch. Several processes share the products.

    Args:
        loss: A scalar that depends on the parameters, a function that returns one, or several such functions whose sum is
            the loss: for instance `GraphLoss.terms`, one for each micro-batch. Differentiable twice.
        parameters: Weights by layer name, of any shape, each requiring grad.
        limits: When to stop.
        seed: A layer's probes depend on the seed and its name, not on the other layers.
        partial: Products made before, and where to keep them.
        progress: Called after each product, see `probe_layers`.

    Returns:
        The estimate of each layer, in units of the loss, in the order of `parameters`.

    Raises:
        TrainingError: If the loss or a product is not finite.
        ValueError: If the loss is no scalar.

    Source:
        Hutchinson 1990, doi:10.1080/03610919008812866; Dong et al. 2019, HAWQ-V2, arXiv:1911.03852, section 3.3.

    >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> found = hutchinson_trace((weight**2).sum(), {"layer": weight})
    >>> found["layer"].value, found["layer"].standard_error
    (4.0, 0.0)
    """
    products = Products(loss, parameters)

    def probe(term: int, name: str, number: int) -> float:
        return _probe(products, term, name, layer_seed(seed, name, number))

    return probe_layers(
        parameters, probe, limits or SamplingLimits(), terms=len(products), partial=partial, progress=progress
    )


def activation_hutchinson_trace(
    loss: GraphLoss,
    *,
    micro_batch: int = 64,
    limits: SamplingLimits | None = None,
    seed: int = 0,
    partial: Partial | None = None,
    progress: Progress = silent,
) -> dict[str, Estimate]:
    """The trace over the tensor that each layer reads, of one image's loss, mean over images.

    Images do not depend on each other, so one product with signs for all images of a micro-batch probes each image's block:
    v^T H v of the mean loss has the mean trace as its expectation.

    Args:
        loss: The network, images and labels.
        micro_batch: Images in one graph: what bounds the memory.
        limits: When to stop, as for `hutchinson_trace`; a probe is one product of each micro-batch.
        seed: The seed of the probes.
        partial: Products made before, and where to keep them.
        progress: Called after each product, see `probe_layers`.

    Returns:
        By layer, in the order of the graph. `standard_error` is that of the probes; it does not know other images.

    Raises:
        TrainingError: If the loss or a product is not finite.
    """
    products = Products(loss.activation_terms(micro_batch), None)

    def probe(term: int, name: str, number: int) -> float:
        return _probe(products, term, name, layer_seed(seed, f"{name}/{term}", number))

    return probe_layers(
        loss.weights, probe, limits or SamplingLimits(), terms=len(products), partial=partial, progress=progress
    )


def _probe(products: Products, term: int, name: str, seed: int) -> float:
    """v^T H v."""
    signs = random_signs(products.variable(term, name), seed)
    product = products.of(term, name, signs)
    return 0.0 if product is None else float((product.double() * signs).sum())


def random_signs(like: Tensor, seed: int) -> Tensor:
    """+1 and -1 with equal probability, shaped as `like`."""
    generator = torch.Generator(like.device).manual_seed(seed)
    signs = torch.randint(0, 2, like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return signs.mul_(2).sub_(1)
