# SPDX-License-Identifier: MIT
"""Hutchinson's estimate of each layer's Hessian trace, with the standard error that it reached.

The Hessian H of the loss over one layer's weights is never formed. With v of independent random signs, E[v^T H v] = tr(H),
and H v costs one more backward pass. Two choices make it cheap:

- **Probes of one layer at a time.** A probe of all layers at once adds the off-diagonal blocks v_i^T H_ij v_j to the variance of
  every layer: on a trained ResNet20, 12 times (median) the variance, and a longer backward pass besides.
- **One kept gradient graph.** The gradient is differentiated again for each probe, but built once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from bitwright.errors import TrainingError
from bitwright.progress import Progress, silent
from bitwright.sensitivity.estimate import Estimate
from bitwright.sensitivity.probing import SamplingLimits, layer_seed, probe_layers


def hutchinson_trace(
    loss: Tensor | Callable[[], Tensor],
    parameters: Mapping[str, Tensor],
    *,
    limits: SamplingLimits | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> dict[str, Estimate]:
    """Estimate the trace of the loss's Hessian over each parameter by itself.

    Each layer's probes stop when their relative standard error is at most that of the limits; those that reach its
    `max_probes` first come back with `converged=False`. The error is measured against |mean|, so a negative trace counts like a
    positive one. It is the error of the probes alone: another batch has another trace.

    Leaves `.grad` of the parameters alone, and frees the graph on return. Batch norm belongs in eval mode, or the loss
    couples the images of the batch.

    Args:
        loss: A scalar that depends on the parameters, or a function that returns one. Differentiable twice.
        parameters: Weights by layer name, of any shape, each requiring grad.
        limits: When to stop.
        seed: A layer's probes depend on the seed and its name, not on the other layers.
        progress: Called after each probe, see `probe_layers`.

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
    gradients = dict(zip(parameters, _gradients(loss, parameters), strict=True))
    generators = {
        name: torch.Generator(tensor.device).manual_seed(layer_seed(seed, name)) for name, tensor in parameters.items()
    }

    def probe(name: str) -> float:
        return _probe(gradients[name], parameters[name], generators[name])

    return probe_layers(parameters, probe, limits or SamplingLimits(), progress)


def _gradients(loss: Tensor | Callable[[], Tensor], parameters: Mapping[str, Tensor]) -> list[Tensor | None]:
    """The gradient of the loss by each parameter, with the graph to differentiate it again."""
    with torch.enable_grad():
        value = loss if isinstance(loss, Tensor) else loss()
        if value.numel() != 1:
            raise ValueError(f"expected a scalar loss, got shape {tuple(value.shape)}.")
        if not torch.isfinite(value).all():
            raise TrainingError(f"the loss is {value.item()}, so it has no Hessian: check the images and the weights.")
        if not parameters or not value.requires_grad:
            return [None] * len(parameters)
        # By autograd.grad rather than backward(create_graph=True): that would tie .grad and the graph into a cycle.
        return list(torch.autograd.grad(value.sum(), list(parameters.values()), create_graph=True, allow_unused=True))


def _probe(gradient: Tensor | None, parameter: Tensor, generator: torch.Generator) -> float:
    """v^T H v for random signs v; 0 where the gradient does not depend on the parameter."""
    signs = random_signs(parameter, generator)
    if gradient is None or not gradient.requires_grad:
        return 0.0
    (product,) = torch.autograd.grad(gradient, parameter, grad_outputs=signs, retain_graph=True, allow_unused=True)
    return 0.0 if product is None else float((product.double() * signs).sum())


def random_signs(like: Tensor, generator: torch.Generator) -> Tensor:
    """+1 and -1 with equal probability, shaped as `like`."""
    signs = torch.randint(0, 2, like.shape, generator=generator, device=like.device, dtype=like.dtype)
    return signs.mul_(2).sub_(1)
