# SPDX-License-Identifier: MIT
"""Hutchinson's estimate of each layer's Hessian trace, with the standard error that it reached.

The Hessian H of the loss over one layer's weights is never formed. With v of independent random signs, E[v^T H v] = tr(H),
and H v costs one more backward pass. Two choices make it cheap:

- **Probes of one layer at a time.** A probe of all layers at once adds the off-diagonal blocks v_i^T H_ij v_j to the variance of
  every layer: on a trained ResNet20, 12 times (median) the variance, and a longer backward pass besides.
- **One kept gradient graph.** The gradient is differentiated again for each probe, but built once.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bitwright.errors import TrainingError

Progress = Callable[[str, int, float, float], object]
"""Called after each probe with the layer, its probes so far, their mean, and its standard error."""


@dataclass(frozen=True)
class TraceEstimate:
    """A trace and how well it is known.

    Attributes:
        trace: Mean of v^T H v over the probes.
        standard_error: Their standard deviation over the square root of their number.
        probes: Their number.
        converged: Whether the relative standard error reached the target.
    """

    trace: float
    standard_error: float
    probes: int
    converged: bool

    @property
    def relative_error(self) -> float:
        """Standard error over |trace|: 0 if both are zero, infinite if only the trace is.

        >>> TraceEstimate(-20.0, 1.0, 50, True).relative_error
        0.05
        """
        if self.standard_error == 0:
            return 0.0
        return self.standard_error / abs(self.trace) if self.trace else math.inf


class RunningMean:
    """Mean and standard error of numbers that arrive one by one (Welford 1962: no cancellation).

    >>> mean = RunningMean()
    >>> for value in (1.0, 2.0, 3.0):
    ...     mean.add(value)
    >>> mean.mean, round(mean.standard_error, 4)
    (2.0, 0.5774)
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self._squares += step * (value - self.mean)

    @property
    def standard_error(self) -> float:
        """Infinite below two numbers."""
        return math.sqrt(self._squares / (self.count - 1) / self.count) if self.count > 1 else math.inf

    def estimate(self, relative_error: float) -> TraceEstimate:
        found = TraceEstimate(self.mean, self.standard_error, self.count, False)
        return TraceEstimate(found.trace, found.standard_error, found.probes, found.relative_error <= relative_error)


def hutchinson_trace(
    loss: Tensor | Callable[[], Tensor],
    parameters: Mapping[str, Tensor],
    *,
    relative_error: float = 0.05,
    min_probes: int = 10,
    max_probes: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, TraceEstimate]:
    """Estimate the trace of the loss's Hessian over each parameter by itself.

    Each layer's probes stop when their relative standard error is at most `relative_error`; those that reach `max_probes`
    first come back with `converged=False`. The error is measured against |mean|, so a negative trace counts like a
    positive one. It is the error of the probes alone: another batch has another trace.

    Leaves `.grad` of the parameters alone, and frees the graph on return. Batch norm belongs in eval mode, or the loss
    couples the images of the batch.

    Args:
        loss: A scalar that depends on the parameters, or a function that returns one. Differentiable twice.
        parameters: Weights by layer name, of any shape, each requiring grad.
        relative_error: Target for standard error / |trace|.
        min_probes: At least this many, so that the standard error itself is known.
        max_probes: At most this many.
        seed: A layer's probes depend on the seed and its name, not on the other layers.
        progress: Called after each probe.

    Returns:
        The estimate of each layer, in units of the loss, in the order of `parameters`.

    Raises:
        TrainingError: If the loss or a product is not finite.
        ValueError: If the arguments make no sense.

    Source:
        Hutchinson 1990, doi:10.1080/03610919008812866; Dong et al. 2019, HAWQ-V2, arXiv:1911.03852, section 3.3.

    >>> weight = torch.tensor([1.0, 2.0], requires_grad=True)
    >>> found = hutchinson_trace((weight**2).sum(), {"layer": weight})
    >>> found["layer"].trace, found["layer"].standard_error
    (4.0, 0.0)
    """
    if not 2 <= min_probes <= max_probes:
        raise ValueError(f"expected 2 <= min_probes <= max_probes, got {min_probes} and {max_probes}.")
    if relative_error < 0:
        raise ValueError(f"relative_error must not be negative, got {relative_error}.")
    gradients = _gradients(loss, parameters)
    estimates = {}
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        generator = torch.Generator(parameter.device).manual_seed(layer_seed(seed, name))
        running = RunningMean()
        while True:
            value = _probe(gradient, parameter, generator)
            if not math.isfinite(value):
                raise TrainingError(
                    f"the Hessian of layer '{name}' gave {value} at probe {running.count + 1}: "
                    "check the weights and the images for huge values, or measure in float64."
                )
            running.add(value)
            if progress is not None:
                progress(name, running.count, running.mean, running.standard_error)
            found = running.estimate(relative_error)
            if running.count >= max_probes or (running.count >= min_probes and found.converged):
                break
        estimates[name] = found
    return estimates


def layer_seed(seed: int, layer: str) -> int:
    """A seed of a layer's own, the same on every machine.

    >>> layer_seed(0, "stem"), layer_seed(1, "stem")
    (3153302018, 7448269314)
    """
    return (seed << 32) + zlib.crc32(layer.encode())


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
    signs = torch.randint(0, 2, parameter.shape, generator=generator, device=parameter.device, dtype=parameter.dtype)
    signs.mul_(2).sub_(1)
    if gradient is None or not gradient.requires_grad:
        return 0.0
    (product,) = torch.autograd.grad(gradient, parameter, grad_outputs=signs, retain_graph=True, allow_unused=True)
    return 0.0 if product is None else float((product.double() * signs).sum())
