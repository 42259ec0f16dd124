# SPDX-License-Identifier: MIT
"""Largest eigenvalues against dense Hessian blocks, and the bounds that come with them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bitwright.errors import TrainingError
from bitwright.scheme import Precision
from bitwright.sensitivity import (
    Estimate,
    GraphLoss,
    SamplingLimits,
    SensitivitySettings,
    measure_sensitivity,
    top_eigenvalue,
)
from bitwright.sensitivity.top_eigenvalue import Lanczos
from sensitivity.problems import dense_hessian, problem

SHARP = SamplingLimits(relative_error=1e-9, max_probes=300)


def quadratic(eigenvalues: Tensor) -> tuple[Tensor, Tensor]:
    """A loss 1/2 w^T A w, A with these eigenvalues and random eigenvectors, and w."""
    generator = torch.Generator().manual_seed(1)
    size = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
    weight = torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=True)
    return weight @ (basis * eigenvalues) @ basis.T @ weight / 2, weight


def test_eigenvalues_are_those_of_the_dense_hessian() -> None:
    """To ten digits with a small target, and within the stated bound, from below, with a large one."""
    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    sharp = top_eigenvalue(loss, loss.weights, limits=SHARP)
    rough = top_eigenvalue(loss, loss.weights, limits=SamplingLimits(0.2))
    assert list(sharp) == list(rough) == list(graph.layers)
    for name in graph.layers:
        exact = float(torch.linalg.eigvalsh(dense_hessian(graph, name, images, labels)).max())
        assert math.isclose(sharp[name].value, exact, rel_tol=1e-10)
        assert sharp[name].converged
        assert rough[name].converged
        assert rough[name].samples <= sharp[name].samples
        assert exact - rough[name].standard_error <= rough[name].value <= exact * (1 + 1e-12)


@pytest.mark.parametrize("micro_batch", [5, 12])
def test_micro_batches_give_the_same_eigenvalues(micro_batch: int) -> None:
    """Products are summed over the terms of the loss."""
    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    whole = top_eigenvalue(loss, loss.weights, limits=SHARP)
    pieces = top_eigenvalue(loss.terms(micro_batch), loss.weights, limits=SHARP)
    for name in whole:
        assert math.isclose(whole[name].value, pieces[name].value, rel_tol=1e-10)


def test_the_largest_magnitude_counts() -> None:
    """A negative eigenvalue that outweighs the positive ones is found, as by power iteration."""
    loss, weight = quadratic(torch.tensor([-5.0, 4.0, *torch.linspace(-1, 1, 30)], dtype=torch.float64))
    found = top_eigenvalue(loss, {"w": weight}, limits=SHARP)["w"]
    assert math.isclose(found.value, -5, rel_tol=1e-12)
    assert found.converged


def test_bounds_hold_however_few_the_products() -> None:
    """An eigenvalue lies within the residual of each value, and what missed the target says so."""
    eigenvalues = torch.linspace(0, 1, 40, dtype=torch.float64) ** 3
    for products in (2, 3, 5, 8, 12):
        loss, weight = quadratic(eigenvalues)
        found = top_eigenvalue(loss, {"w": weight}, limits=SamplingLimits(1e-6, 2, products))["w"]
        assert found.samples == products
        assert float((eigenvalues - found.value).abs().min()) <= found.standard_error
        assert found.value <= 1
        assert not found.converged


def test_time_spent_is_no_convergence() -> None:
    """Without time, a layer gets its least products."""
    loss, weight = quadratic(torch.linspace(0, 1, 40, dtype=torch.float64))
    found = top_eigenvalue(loss, {"w": weight}, limits=SamplingLimits(1e-9, 4, 100, max_seconds=0))["w"]
    assert (found.samples, found.converged) == (4, False)


def test_small_spaces_are_exhausted() -> None:
    """With as many products as weights, or as distinct eigenvalues, the value is exact; without curvature it is zero."""
    single, unused = (torch.ones(1, requires_grad=True) for _ in range(2))
    alike = torch.ones(50, requires_grad=True)
    found = top_eigenvalue(3 * single.sum() ** 2 + (alike**2).sum(), {"one": single, "alike": alike, "unused": unused})
    assert found["one"] == Estimate(6.0, 0.0, 2, True)
    assert math.isclose(found["alike"].value, 2, rel_tol=1e-6)
    assert found["alike"].samples == 2
    assert found["unused"] == Estimate(0.0, 0.0, 2, True)


def test_bases_stay_orthogonal() -> None:
    """After 60 products in float32, long after an eigenvalue has converged, which is when plain Lanczos loses it."""
    generator = torch.Generator().manual_seed(0)
    diagonal = torch.cat([torch.rand(199, generator=generator), torch.tensor([50.0])])
    space = Lanczos(torch.randn(200, generator=generator))
    for _ in range(60):
        space.advance((diagonal * space.basis[-1]).double())
    basis = torch.stack(space.basis).double()
    assert float((basis @ basis.T - torch.eye(len(basis))).abs().max()) < 1e-6
    assert space.relative_residual() < 1e-6


def test_layers_do_not_depend_on_each_other() -> None:
    """A layer by itself gives the very estimate that it gives among others."""
    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    for terms in (loss, loss.terms(5)):
        together = top_eigenvalue(terms, loss.weights, seed=3)
        for name, weight in loss.weights.items():
            assert top_eigenvalue(terms, {name: weight}, seed=3)[name] == together[name]


def test_tables_bound_the_increase_of_the_loss() -> None:
    """A layer's term is its eigenvalue times the squared perturbation."""
    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    table = measure_sensitivity(graph, images, labels, SensitivitySettings(metric="top_eigenvalue", activations=False))
    found = top_eigenvalue(loss.terms(64), loss.weights)
    for layer in table.layers:
        estimate = found[layer.layer]
        assert math.isclose(layer.mean_trace(), estimate.value, rel_tol=1e-12)
        assert math.isclose(layer.mean_trace_standard_error(), estimate.standard_error, rel_tol=1e-12)
        assert math.isclose(layer.loss_increase(Precision(3, 8)), estimate.value * layer.perturbation[3], rel_tol=1e-12)
        assert (layer.probes, layer.activations) == (estimate.samples, None)


def test_what_is_not_finite_is_refused() -> None:
    """At zero, the second derivative of x^1.5 is infinite."""
    zero = torch.zeros(2, requires_grad=True)
    with pytest.raises(TrainingError, match="the Hessian of layer 'w' is not finite"):
        top_eigenvalue((zero**1.5).sum(), {"w": zero})
