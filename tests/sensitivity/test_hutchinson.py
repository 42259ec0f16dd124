# SPDX-License-Identifier: MIT
"""Hutchinson's estimates against exact Hessians, curvlinops, and what they say of themselves."""

from __future__ import annotations

import gc
import math
import weakref

import pytest
import torch
from torch import Tensor, nn

from bitwright.errors import TrainingError
from bitwright.sensitivity import (
    Estimate,
    GraphLoss,
    SamplingLimits,
    activation_hutchinson_trace,
    hutchinson_trace,
)
from sensitivity.problems import activation_hessian, dense_hessian, problem


def quadratic(size: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """A loss 1/2 w^T A w with its A, and w."""
    generator = torch.Generator().manual_seed(1)
    root = torch.randn(size, size, generator=generator, dtype=torch.float64)
    weight = torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
    matrix = root @ root.T
    return weight @ matrix @ weight / 2, matrix, weight


def z_scores(found: dict[str, Estimate], exact: dict[str, float]) -> list[float]:
    """Each layer's error in units of its standard error."""
    return [(found[name].value - exact[name]) / found[name].standard_error for name in exact]


def test_traces_agree_with_the_exact_hessian() -> None:
    """Over 15 seeds, the errors of every layer are distributed as the standard errors say."""
    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    exact = {name: float(dense_hessian(graph, name, images, labels).trace()) for name in graph.layers}
    assert min(abs(value) for value in exact.values()) > 0.01
    scores = []
    for seed in range(15):
        found = hutchinson_trace(
            loss, loss.weights, seed=seed, limits=SamplingLimits(relative_error=0, min_probes=30, max_probes=30)
        )
        assert list(found) == list(graph.layers)
        scores += z_scores(found, exact)
    # Student's t with 29 degrees of freedom: standard deviation 1.04, and 1 of 10,000 beyond 4.5.
    spread = torch.tensor(scores).square().mean().sqrt()
    assert 0.8 < float(spread) < 1.25
    assert max(abs(score) for score in scores) < 4.5
    assert abs(float(torch.tensor(scores).mean())) < 4 / math.sqrt(len(scores))


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_traces_agree_with_curvlinops() -> None:
    """The blocks of curvlinops' Hessian of the same loss have traces within the standard errors."""
    from curvlinops import HessianLinearOperator  # importing it warns

    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    parameters = [nn.Parameter(weight.detach().clone()) for weight in loss.weights.values()]

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weights = nn.ParameterList(parameters)

        def forward(self, batch: Tensor) -> Tensor:
            return loss.outputs(dict(zip(graph.layers, self.weights, strict=True)), batch)

    operator = HessianLinearOperator(Logits(), nn.CrossEntropyLoss(), parameters, [(images, labels)])
    dense = operator @ torch.eye(operator.shape[1], dtype=torch.float64)
    blocks = torch.split(dense.diagonal(), [parameter.numel() for parameter in parameters])
    exact = {name: float(block.sum()) for name, block in zip(graph.layers, blocks, strict=True)}
    found = hutchinson_trace(loss, loss.weights, limits=SamplingLimits(relative_error=0.05))
    assert all(estimate.converged for estimate in found.values())
    assert max(abs(score) for score in z_scores(found, exact)) < 4


def test_a_diagonal_hessian_takes_no_more_than_the_least_probes() -> None:
    """v^T D v is tr(D) for every sign vector, so there is nothing to average."""
    weight = torch.tensor([1.0, -2.0, 3.0], requires_grad=True)
    found = hutchinson_trace((weight**3).sum(), {"w": weight}, limits=SamplingLimits(min_probes=2))
    assert found["w"] == Estimate(12.0, 0.0, 2, True)


def test_probes_stop_at_the_target_or_at_the_limit() -> None:
    """A layer ends converged below the target, or unconverged at the limit."""
    loss, _, weight = quadratic()
    found = hutchinson_trace(loss, {"w": weight}, limits=SamplingLimits(relative_error=0.05))["w"]
    assert found.converged
    assert found.relative_error <= 0.05
    assert 10 < found.samples < 1000
    loss, _, weight = quadratic()
    short = hutchinson_trace(
        loss, {"w": weight}, limits=SamplingLimits(relative_error=0.05, max_probes=found.samples - 1)
    )["w"]
    assert not short.converged
    assert short.samples == found.samples - 1
    assert short.relative_error > 0.05


def test_negative_traces_converge_like_positive_ones() -> None:
    """The error is taken relative to |trace|, so a negative trace does not pass for converged."""
    for sign in (1, -1):
        loss, matrix, weight = quadratic()
        found = hutchinson_trace(sign * loss, {"w": weight}, limits=SamplingLimits(relative_error=0.05))["w"]
        assert found.samples > 10
        assert abs(found.value - sign * float(matrix.trace())) < 4 * found.standard_error


def test_time_spent_is_no_convergence() -> None:
    """Without time every layer gets its least probes, and what missed the target says so."""
    loss, _, weight = quadratic()
    found = hutchinson_trace(loss, {"w": weight}, limits=SamplingLimits(relative_error=0.001, max_seconds=0))["w"]
    assert found.samples == 10
    assert not found.converged


def test_probes_of_a_layer_do_not_depend_on_the_others() -> None:
    """A layer by itself gives the very estimate that it gives among others, and a seed gives it again."""
    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    together = hutchinson_trace(loss, loss.weights, seed=4, limits=SamplingLimits(relative_error=0.2))
    for name, weight in loss.weights.items():
        assert (
            hutchinson_trace(loss, {name: weight}, seed=4, limits=SamplingLimits(relative_error=0.2))[name]
            == together[name]
        )
    assert hutchinson_trace(loss, loss.weights, seed=5, limits=SamplingLimits(relative_error=0.2)) != together


def test_weights_without_curvature_have_a_trace_of_zero() -> None:
    """A weight that the loss is linear in, or does not know, has the exact trace 0."""
    used, unused = (torch.ones(3, requires_grad=True) for _ in range(2))
    found = hutchinson_trace(used.sum(), {"linear": used, "unused": unused})
    assert found == {"linear": Estimate(0.0, 0.0, 10, True), "unused": Estimate(0.0, 0.0, 10, True)}


def test_leaves_gradients_alone_and_frees_the_graph() -> None:
    """No `.grad` is made or changed, and the graph of the gradient goes when the estimate is made."""
    weight = torch.randn(5, requires_grad=True)
    weight.grad = torch.full((5,), 7.0)
    values = weight**3
    alive = weakref.ref(values)
    hutchinson_trace(values.sum(), {"w": weight})
    assert torch.equal(weight.grad, torch.full((5,), 7.0))
    gc.disable()
    try:
        del values
        assert alive() is None
    finally:
        gc.enable()


def test_progress_ends_with_all_probes_done() -> None:
    """Done counts up by one to the total, and the error shown falls to the target."""
    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    seen: list[tuple[int, int, float, float]] = []

    def progress(done: int, total: int, /, **figures: float) -> None:
        seen.append((done, total, figures["relative_error"], figures["unconverged"]))

    found = hutchinson_trace(loss, loss.weights, progress=progress, limits=SamplingLimits(relative_error=0.1))
    assert [entry[0] for entry in seen] == list(range(1, len(seen) + 1))
    assert all(done <= total for done, total, _, _ in seen)
    assert seen[-1] == (len(seen), len(seen), 0.0, 0)
    assert len(seen) == sum(estimate.samples for estimate in found.values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_probes": 1}, "2 <= min_probes <= max_probes, got 1 and 1000"),
        ({"max_probes": 5}, "2 <= min_probes <= max_probes, got 10 and 5"),
        ({"relative_error": -0.1}, "relative_error must not be negative, got -0.1"),
    ],
)
def test_options_without_sense_are_refused(options: dict[str, float], message: str) -> None:
    """Each message says what was expected."""
    with pytest.raises(ValueError, match=message):
        SamplingLimits(**options)


def test_a_loss_that_is_no_number_is_refused() -> None:
    """A loss must be one finite number, and so must every product."""
    weight = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"expected a scalar loss, got shape \(2,\)"):
        hutchinson_trace(weight**2, {"w": weight})
    with pytest.raises(TrainingError, match="the loss is nan, so it has no Hessian"):
        hutchinson_trace((weight * math.nan).sum(), {"w": weight})
    # At zero, x^1.5 is 0, its first derivative is 0, and its second is infinite.
    zero = torch.zeros(2, requires_grad=True)
    with pytest.raises(TrainingError, match=r"layer 'w' gave inf at probe 1: check the weights and the images"):
        hutchinson_trace((zero**1.5).sum(), {"w": zero})


def test_micro_batches_give_the_same_traces() -> None:
    """Products are summed over the terms of the loss; in float64 the sums agree to its digits, and so do their numbers."""
    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    torch.testing.assert_close(sum(term() for term in loss.terms(5)), loss(), rtol=1e-12, atol=0)
    whole = hutchinson_trace(loss, loss.weights)
    pieces = hutchinson_trace(loss.terms(5), loss.weights)
    for name in whole:
        assert math.isclose(whole[name].value, pieces[name].value, rel_tol=1e-10)
        assert whole[name].samples == pieces[name].samples


@pytest.mark.parametrize("micro_batch", [5, 64])
def test_traces_of_activations_agree_with_the_exact_hessians(micro_batch: int) -> None:
    """Over 15 seeds, errors from the mean of all images' dense traces are distributed as the standard errors say."""
    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    limits = SamplingLimits(relative_error=0, min_probes=30, max_probes=30)
    exact = {
        name: sum(
            float(activation_hessian(graph, name, images[i : i + 1], labels[i : i + 1]).trace())
            for i in range(len(images))
        )
        / len(images)
        for name in graph.layers
    }
    scores = []
    for seed in range(15):
        found = activation_hutchinson_trace(loss, micro_batch=micro_batch, limits=limits, seed=seed)
        assert list(found) == list(graph.layers)
        scores += z_scores(found, exact)
    assert 0.8 < float(torch.tensor(scores).square().mean().sqrt()) < 1.25
    assert max(abs(score) for score in scores) < 4.5


def test_one_graph_is_alive_at_a_time() -> None:
    """A term's graph is gone before the next one is built, and none is left in the end, without the garbage collector."""
    weight = torch.randn(5, requires_grad=True, dtype=torch.float64)
    alive: list[weakref.ref[Tensor]] = []
    built = []

    def term(power: int) -> Tensor:
        assert not any(reference() is not None for reference in alive)
        inner = weight**power
        alive.append(weakref.ref(inner))
        built.append(power)
        return (inner.sum() ** 2).sum()

    gc.disable()
    try:
        hutchinson_trace(
            [lambda: term(2), lambda: term(3)],
            {"w": weight},
            limits=SamplingLimits(relative_error=0, min_probes=10, max_probes=40),
        )
        assert built == [2, 3] * 4  # rounds of ten, in each of which a graph serves all probes
        assert not any(reference() is not None for reference in alive)
    finally:
        gc.enable()
    assert weight.grad is None
