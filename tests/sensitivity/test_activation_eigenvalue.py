# SPDX-License-Identifier: MIT
"""Largest eigenvalues over what layers read, against dense Hessians of single images."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bitwright.errors import TrainingError
from bitwright.scheme import Precision
from bitwright.sensitivity import (
    GraphLoss,
    SamplingLimits,
    SensitivitySettings,
    measure_sensitivity,
    top_activation_eigenvalue,
)
from bitwright.sensitivity.activation_eigenvalue import largest_eigenvalues
from sensitivity.problems import activation_hessian, problem

SHARP = SamplingLimits(relative_error=1e-9, max_probes=300)


def dense_eigenvalues(layer: str) -> Tensor:
    """Of each image's block, one image after the other."""
    graph, images, labels = problem()
    blocks = [activation_hessian(graph, layer, images[i : i + 1], labels[i : i + 1]) for i in range(len(images))]
    return torch.stack([torch.linalg.eigvalsh(block).max() for block in blocks])


@pytest.mark.parametrize("micro_batch", [5, 64])
def test_eigenvalues_are_those_of_each_image(micro_batch: int) -> None:
    """Mean and spread to ten digits with a small target; within the stated bound, from below, with a large one."""
    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    sharp = top_activation_eigenvalue(loss, limits=SHARP, micro_batch=micro_batch)
    rough = top_activation_eigenvalue(loss, limits=SamplingLimits(0.2), micro_batch=micro_batch)
    assert list(sharp) == list(rough) == list(graph.layers)
    for name in graph.layers:
        exact = dense_eigenvalues(name)
        mean = float(exact.mean())
        assert math.isclose(sharp[name].value, mean, rel_tol=1e-10)
        assert sharp[name].data_standard_error is not None
        assert math.isclose(sharp[name].data_standard_error, float(exact.std()) / len(images) ** 0.5, rel_tol=1e-8)
        assert sharp[name].converged
        assert rough[name].converged
        assert rough[name].samples <= sharp[name].samples
        assert mean * (1 - 1e-12) - rough[name].standard_error <= rough[name].value <= mean * (1 + 1e-12)


def matrices(kinds: str) -> Tensor:
    """Positive semidefinite matrices of 30 rows: full, of rank one, zero, and multiples of one."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for kind in kinds:
        root = torch.randn(30, 1 if kind == "1" else 30, generator=generator, dtype=torch.float64)
        made.append({"0": torch.zeros(30, 30).double(), "I": 3 * torch.eye(30).double()}.get(kind, root @ root.T))
    return torch.stack(made)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_matrix_of_a_batch_is_found(dtype: torch.dtype) -> None:
    """Also beside those that are done at once, or that have nothing to find."""
    dense = matrices("f10If")
    start = torch.randn(5, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)

    def multiply(vectors: Tensor) -> Tensor:
        return (dense.to(dtype) @ vectors[:, :, None]).squeeze(2)

    tolerance = 1e-9 if dtype is torch.float64 else 1e-4
    limits = SamplingLimits(tolerance, max_probes=200)
    values, residuals, count = largest_eigenvalues(multiply, start, limits, math.inf, lambda count, error: None)
    exact = torch.linalg.eigvalsh(dense).max(1).values
    torch.testing.assert_close(values, exact, rtol=2 * tolerance, atol=tolerance)
    assert torch.all((values - exact).abs() <= residuals + 1e-5 * exact)
    assert count < 100


def test_eigenvalues_are_the_largest_by_value() -> None:
    """Of indefinite matrices, and of negative ones, that largest in magnitude is passed over where it is negative."""
    dense = matrices("ff1")
    dense[0] -= 40 * torch.eye(30)  # of both signs
    dense[1:] = -dense[1:] - 2 * torch.eye(30)
    start = torch.randn(3, 30, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def multiply(vectors: Tensor) -> Tensor:
        return (dense @ vectors[:, :, None]).squeeze(2)

    values, residuals, _ = largest_eigenvalues(
        multiply, start, SamplingLimits(1e-9, max_probes=300), math.inf, lambda count, error: None
    )
    exact = torch.linalg.eigvalsh(dense).max(1).values
    assert exact[0] > 0 > exact[1]
    assert torch.all((values - exact).abs() <= residuals + 1e-12)
    assert float(residuals.max()) < 1e-3  # the errors go with its square


def test_few_products_are_no_convergence() -> None:
    """At the limit of products, or of time, values are bounds from below that say so."""
    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    for limits in (SamplingLimits(1e-9, 3, 3), SamplingLimits(1e-9, 3, 100, max_seconds=0)):
        found = top_activation_eigenvalue(loss, limits=limits, micro_batch=6)
        for name, estimate in found.items():
            assert (estimate.samples, estimate.converged) == (6, False)
            assert estimate.value <= float(dense_eigenvalues(name).mean())


def test_tables_hold_eigenvalues_of_activations() -> None:
    """A layer's term has that of what it reads, times the squared perturbation, too."""
    graph, images, labels = problem()
    found = top_activation_eigenvalue(GraphLoss(graph, images, labels))
    table = measure_sensitivity(graph, images, labels, SensitivitySettings(metric="top_eigenvalue"))
    for layer in table.layers:
        read, estimate = layer.activations, found[layer.layer]
        assert read is not None
        assert math.isclose(read.mean_trace(), estimate.value, rel_tol=1e-12)
        expected = layer.mean_trace() * layer.perturbation[3] + estimate.value * read.perturbation[5]
        assert math.isclose(layer.loss_increase(Precision(3, 5)), expected, rel_tol=1e-12)
        assert read.data_standard_error is not None
        spread = math.hypot(estimate.standard_error, estimate.data_standard_error or 0.0)
        assert math.isclose(read.mean_trace_standard_error(), spread, rel_tol=1e-12)


def test_a_network_that_is_sure_has_no_curvature() -> None:
    """Where every softmax is exactly one-hot, all eigenvalues are zero."""
    graph, images, labels = problem()
    scaled = {**graph.parameters, "fc.weight": graph.parameters["fc.weight"] * 1e9}
    found = top_activation_eigenvalue(GraphLoss(graph.with_parameters(scaled), images, labels))
    assert all((estimate.value, estimate.converged) == (0.0, True) for estimate in found.values())


def test_what_is_not_finite_is_refused() -> None:
    """A product that overflows names the layer: logits near zero with weights whose square leaves float64."""
    graph, images, labels = problem()
    huge = {
        **graph.parameters,
        "fc.weight": graph.parameters["fc.weight"] * 1e160,
        "depthwise.weight": graph.parameters["depthwise.weight"] * 0,
        "depthwise.bias": graph.parameters["depthwise.bias"] * 0,
        "norm.weight": graph.parameters["norm.weight"] * 0,
        "norm.bias": graph.parameters["norm.bias"] * 0,
    }
    with pytest.raises(TrainingError, match="the Hessian over what layer 'fc' reads is not finite"):
        top_activation_eigenvalue(GraphLoss(graph.with_parameters(huge), images, labels))
