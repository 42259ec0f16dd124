# SPDX-License-Identifier: MIT
"""The metrics by name: each turns a loss into one entry for every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from bitwright.errors import unknown_name
from bitwright.progress import Progress
from bitwright.sensitivity.activation_eigenvalue import top_activation_eigenvalue
from bitwright.sensitivity.checkpoint import Checkpoint
from bitwright.sensitivity.entries import Entries, Estimates, curved, elements, increased, times
from bitwright.sensitivity.gauss_newton import MAX_PAIRS, LayerCurvature, empirical_fisher_trace, gauss_newton_trace
from bitwright.sensitivity.hutchinson import activation_hutchinson_trace, hutchinson_trace
from bitwright.sensitivity.loss import GraphLoss
from bitwright.sensitivity.loss_perturbation import activation_loss_perturbation, weight_loss_perturbation
from bitwright.sensitivity.probing import SamplingLimits
from bitwright.sensitivity.settings import SensitivitySettings
from bitwright.sensitivity.top_eigenvalue import MAX_STEPS, top_eigenvalue

MAX_PRODUCTS = 1000


@dataclass(frozen=True)
class Measurement:
    """What a metric is given.

    Attributes:
        loss: The network, images and targets.
        settings: How to measure.
        limits: When sampling stops.
        kept: Where partial results are kept.
        progress: To be told as samples come in.
    """

    loss: GraphLoss
    settings: SensitivitySettings
    limits: SamplingLimits
    kept: Checkpoint
    progress: Progress


Measure = Callable[[Measurement], Entries]


@dataclass(frozen=True)
class Metric:
    """How much a layer matters, as one number and its standard error.

    Attributes:
        name: As it is asked for.
        max_probes: Samples that it takes at most by default.
        measure: Makes the entries of all layers, in the order of the graph.
    """

    name: str
    max_probes: int
    measure: Measure


_METRICS: dict[str, Metric] = {}
METRICS: Mapping[str, Metric] = MappingProxyType(_METRICS)
"""The known metrics, by name."""


def metric(name: str, *, max_probes: int) -> Callable[[Measure], Measure]:
    """Make a decorated function the metric `name`.

    Raises:
        ValueError: If the name is taken.
    """
    if name in _METRICS:
        raise ValueError(f"the metric name '{name}' is taken.")

    def register(function: Measure) -> Measure:
        _METRICS[name] = Metric(name, max_probes, function)
        return function

    return register


def find_metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        UnknownNameError: If there is none; it names the closest.
    """
    if name not in _METRICS:
        raise unknown_name("metric", name, _METRICS)
    return _METRICS[name]


@metric("gauss_newton_trace", max_probes=MAX_PAIRS)
def _gauss_newton(asked: Measurement) -> Entries:
    return _by_norms(asked, gauss_newton_trace)


@metric("empirical_fisher", max_probes=MAX_PAIRS)
def _empirical_fisher(asked: Measurement) -> Entries:
    return _by_norms(asked, empirical_fisher_trace)


def _by_norms(asked: Measurement, trace: Callable[..., dict[str, LayerCurvature]]) -> Entries:
    settings = asked.settings
    curvatures = trace(
        asked.loss,
        limits=asked.limits,
        micro_batch=settings.micro_batch,
        seed=settings.seed,
        partial=asked.kept.part(settings.metric),
        progress=asked.progress,
    )
    weights = {name: curvature.weights for name, curvature in curvatures.items()}
    read = {name: curvature.activations for name, curvature in curvatures.items()}
    return curved(asked.loss, settings, weights, read if settings.activations else {})


@metric("hutchinson_trace", max_probes=MAX_PRODUCTS)
def _hutchinson(asked: Measurement) -> Entries:
    return curved(asked.loss, asked.settings, *_by_products(asked, hutchinson_trace, activation_hutchinson_trace))


@metric("top_eigenvalue", max_probes=MAX_STEPS)
def _top_eigenvalue(asked: Measurement) -> Entries:
    loss = asked.loss
    weights, read = _by_products(asked, top_eigenvalue, top_activation_eigenvalue)
    # A layer's term divides a trace by the number of elements, which is to leave the eigenvalue here.
    weights = {name: times(loss.weights[name].numel(), estimate) for name, estimate in weights.items()}
    read = {name: times(elements(loss.graph, name), estimate) for name, estimate in read.items()}
    return curved(loss, asked.settings, weights, read)


def _by_products(
    asked: Measurement, of_weights: Callable[..., Estimates], of_activations: Callable[..., Estimates]
) -> tuple[Estimates, Estimates]:
    """By layer what products of the Hessian tell of its weights; and, if asked for, of what it reads."""
    settings, halves = asked.settings, Halves(asked.progress, asked.settings.activations)
    shared = {"limits": asked.limits, "seed": settings.seed}
    found = of_weights(
        asked.loss.terms(settings.micro_batch),
        asked.loss.weights,
        partial=asked.kept.part(settings.metric),
        progress=halves.first,
        **shared,
    )
    if not settings.activations:
        return found, {}
    read = of_activations(
        asked.loss,
        micro_batch=settings.micro_batch,
        partial=asked.kept.part(f"{settings.metric}_of_activations"),
        progress=halves.second,
        **shared,
    )
    return found, read


@metric("loss_perturbation", max_probes=2)
def _loss_perturbation(asked: Measurement) -> Entries:
    loss, settings, halves = asked.loss, asked.settings, Halves(asked.progress, asked.settings.activations)
    found = weight_loss_perturbation(
        loss,
        settings.bits,
        scale_method=settings.scale_method,
        relative_error=settings.relative_error,
        micro_batch=settings.micro_batch,
        partial=asked.kept.part("weights"),
        progress=halves.first,
    )
    if not settings.activations:
        return increased(loss, found, {})
    read = activation_loss_perturbation(
        loss,
        settings.bits,
        relative_error=settings.relative_error,
        micro_batch=settings.micro_batch,
        seed=settings.seed,
        partial=asked.kept.part("activations"),
        progress=halves.second,
    )
    return increased(loss, found, read)


class Halves:
    """The progress of one measurement that is made in two parts, of weights and of what is read.

    Args:
        progress: To be told of both; the second is taken for as long as the first while that lasts.
        both: Whether there is a second one.
    """

    def __init__(self, progress: Progress, both: bool) -> None:
        self._progress = progress
        self._parts = 1 + both
        self._made = 0

    def first(self, done: int, total: int, /, **figures: float) -> None:
        self._made = total
        self._progress(done, total * self._parts, **figures)

    def second(self, done: int, total: int, /, **figures: float) -> None:
        self._progress(self._made + done, self._made + total, **figures)
