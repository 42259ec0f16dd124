# SPDX-License-Identifier: MIT
"""Gauss-Newton traces of every kind of loss, on a network with SiLU and a gate, against full Jacobians."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.errors import DataError, FileFormatError, TaskError
from bitwright.graph import FloatModel, Graph, capture, execute, folded_weight
from bitwright.sensitivity import (
    GraphLoss,
    SamplingLimits,
    SensitivitySettings,
    gauss_newton_trace,
    measure_sensitivity,
)
from bitwright.task import Task, agreement, classification, curvature, dense_classification
from graph.networks import Called, randomized
from sensitivity.curved import curved_problem
from sensitivity.problems import IMAGE, in_float64, problem
from task.losses import MAPS, VECTORS, Targets, literal

EXACT = SamplingLimits(relative_error=0)


def dense_graph() -> Graph:
    """A fully convolutional network with SiLU: a class for each pixel of half the height and width."""
    torch.manual_seed(3)
    net = Called(
        lambda net, images: net.head(F.silu(net.stem(images))),
        stem=nn.Conv2d(2, 3, 3, stride=2, padding=1),
        head=nn.Conv2d(3, 3, 1),
    )
    return in_float64(capture(randomized(net), IMAGE, name="dense"))


def literal_traces(task: Task, graph: Graph, images: Tensor, targets: Tensor) -> dict[str, float]:
    """tr(J^T S J) over each layer's weights, mean over images: full Jacobians and full Hessians at the outputs."""
    folded = {name: folded_weight(node, graph.parameters) for name, node in graph.layers.items()}
    found = {}
    for name, (weight, bias) in folded.items():

        def outputs(moved: Tensor, name: str = name, bias: Tensor | None = bias) -> Tensor:
            return execute(graph, graph.parameters, images, weights={**folded, name: (moved, bias)})

        jacobians = torch.autograd.functional.jacobian(outputs, weight).reshape(len(images), -1, weight.numel())
        matrices = literal(task, outputs(weight), targets)
        traces = [torch.trace(j.T @ s @ j) for j, s in zip(jacobians, matrices, strict=True)]
        found[name] = float(sum(traces)) / len(images)
    return found


@pytest.mark.parametrize(("task", "targets"), VECTORS.values(), ids=VECTORS)
def test_exact_traces_are_those_of_full_jacobians(task: Task, targets: Targets) -> None:
    """Softmax, squared error, and losses that are differentiated: to ten digits, negative eigenvalues included."""
    graph, images, _ = curved_problem()
    given = targets(FloatModel(graph)(images).detach())
    reference = replace(task, reference=lambda images: given) if task.label_free else task
    found = gauss_newton_trace(GraphLoss(graph, images, given, reference), limits=EXACT)
    for name, expected in literal_traces(task, graph, images, given).items():
        assert math.isclose(found[name].weights.value, expected, rel_tol=1e-9)


@pytest.mark.parametrize(("task", "targets"), MAPS.values(), ids=MAPS)
def test_drawn_traces_agree_with_full_jacobians(task: Task, targets: Targets, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a segmenter's maps: errors over some seeds are distributed as the standard errors say."""
    monkeypatch.setattr(curvature, "MAX_AXES", 0)
    monkeypatch.setattr(curvature, "MAX_DENSE_ELEMENTS", 0)
    graph = dense_graph()
    images = torch.randn(6, *IMAGE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    given = targets(FloatModel(graph)(images).detach())
    reference = replace(task, reference=lambda images: given) if task.label_free else task
    loss = GraphLoss(graph, images, given, reference)
    exact = literal_traces(task, graph, images, given)
    scores = []
    for seed in range(12):
        found = gauss_newton_trace(loss, limits=SamplingLimits(0.3, max_probes=200), seed=seed)
        scores += [(found[name].weights.value - exact[name]) / found[name].weights.standard_error for name in exact]
        assert found["head"].weights.samples <= 232
    assert 0.5 < float(torch.tensor(scores).square().mean().sqrt()) < 1.6
    assert max(map(abs, scores)) < 5


def test_more_draws_come_closer() -> None:
    """A smaller target takes more draws, and keeps those that were made."""
    graph = dense_graph()
    images = torch.randn(6, *IMAGE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    loss = GraphLoss(graph, images, torch.zeros(6, 3, 3, dtype=torch.int64), dense_classification())
    wide, narrow = (gauss_newton_trace(loss, limits=SamplingLimits(error)) for error in (0.2, 0.03))
    assert wide["stem"].weights.samples < narrow["stem"].weights.samples
    assert all(
        curvature.weights.converged and curvature.weights.relative_error <= 0.03 for curvature in narrow.values()
    )


def test_without_labels_it_is_the_hessian_in_any_network() -> None:
    """Compared with itself a network has no gradient at its outputs, so that nothing is dropped, curved or not."""
    graph, images, _ = curved_problem()
    loss = GraphLoss(graph, images, None, agreement())
    found = gauss_newton_trace(loss, limits=EXACT)
    for name, weight in loss.weights.items():
        hessian = torch.autograd.functional.hessian(
            lambda moved, name=name: loss.at({**loss.weights, name: moved}), weight.detach()
        )
        trace = float(hessian.reshape(weight.numel(), weight.numel()).trace())
        assert math.isclose(found[name].weights.value, trace, rel_tol=1e-9)


@pytest.mark.parametrize("metric", ["gauss_newton_trace", "hutchinson_trace", "top_eigenvalue", "loss_perturbation"])
def test_tables_need_no_labels(metric: str) -> None:
    """Images alone, as a tensor or in batches, with labels or without: one table, which names its task."""
    graph, images, labels = problem()
    settings = SensitivitySettings(metric=metric, relative_error=0.3, bits=[4])
    table, *others = (
        measure_sensitivity(graph, given, settings=settings, task=agreement())
        for given in (images, [images[:5], images[5:]], [(images, labels)])
    )
    assert table.task == "agreement"
    assert table == others[0] == others[1]
    assert all(layer.loss_increase is not None for layer in table.layers)
    with pytest.raises(DataError, match="put it in a list where it is one batch"):
        measure_sensitivity(graph, images, settings=settings)


def test_tasks_that_do_not_fit_are_refused_by_name() -> None:
    """A segmenter is no classifier, and the other way about; the task to use is named."""
    with pytest.raises(TaskError, match=r"dense returns 3 x 3 x 3 .* expects \(classes,\): use --task dense-classific"):
        GraphLoss(dense_graph(), torch.zeros(1, *IMAGE), torch.zeros(1), classification())
    graph, images, labels = problem()
    with pytest.raises(TaskError, match=r"small returns 3 for each image, .* use --task classification"):
        GraphLoss(graph, images, labels, dense_classification())
    with pytest.raises(DataError, match=r"expected a class for each pixel, integers of shape \(batch, 3, 3\)"):
        GraphLoss(dense_graph(), torch.zeros(1, *IMAGE), torch.zeros(1, dtype=torch.int64), dense_classification())


def test_a_measurement_goes_on_under_its_own_task(tmp_path: Path) -> None:
    """Another task, or another setting of it, is refused by name."""
    path = tmp_path / "state"
    graph, images = dense_graph(), torch.randn(4, *IMAGE)
    masks = torch.zeros(4, 3, 3, dtype=torch.int64)
    settings = SensitivitySettings(relative_error=0.5, bits=[4])
    measure_sensitivity(graph, images, masks, settings, task=dense_classification(), checkpoint=path)
    with pytest.raises(FileFormatError, match=r"task.ignore_index was 255, is 0"):
        measure_sensitivity(
            graph, images, masks + 1, settings, task=dense_classification(0), checkpoint=path, resume=True
        )
