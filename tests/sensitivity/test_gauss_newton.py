# SPDX-License-Identifier: MIT
"""Gauss-Newton and Fisher traces against dense matrices, image by image and class by class."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.errors import TrainingError
from bitwright.graph import capture, folded_weight, load_model
from bitwright.sensitivity import (
    GraphLoss,
    LayerCurvature,
    SamplingLimits,
    empirical_fisher_trace,
    gauss_newton_trace,
    hutchinson_trace,
)
from bitwright.sensitivity.gauss_newton import WeightedSum
from bitwright.sensitivity.gradient_norms import gradient_norms
from bitwright.task.factors import Classes
from graph.networks import IMAGE, Then, captured
from sensitivity.problems import activation_hessian, dense_hessian, in_float64, problem

EXACT = SamplingLimits(relative_error=0)


def test_exact_traces_are_those_of_the_hessian() -> None:
    """For a piecewise linear network, the blocks of Gauss-Newton matrix and Hessian have one trace, to float64's digits."""
    graph, images, labels = problem()
    images, labels = images[:3], labels[:3]
    found = gauss_newton_trace(GraphLoss(graph, images, labels), limits=EXACT)
    assert list(found) == list(graph.layers)
    for name, curvature in found.items():
        expected = float(dense_hessian(graph, name, images, labels).trace())
        assert math.isclose(curvature.weights.value, expected, rel_tol=1e-10)
        blocks = [activation_hessian(graph, name, images[i : i + 1], labels[i : i + 1]) for i in range(len(images))]
        mean = sum(float(block.trace()) for block in blocks) / len(blocks)
        assert math.isclose(curvature.activations.value, mean, rel_tol=1e-10)
        for estimate in (curvature.weights, curvature.activations):
            assert (estimate.standard_error, estimate.converged, estimate.samples) == (0.0, True, 9)


def test_empirical_fisher_is_the_mean_squared_gradient() -> None:
    """Literally: one gradient of the loss for each image and layer."""
    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    found = empirical_fisher_trace(loss, limits=EXACT)
    norms = []
    for index in range(len(images)):
        single = GraphLoss(graph, images[index : index + 1], labels[index : index + 1])
        gradients = torch.autograd.grad(single(), list(single.weights.values()))
        norms.append([float(gradient.square().sum()) for gradient in gradients])
    by_layer = torch.tensor(norms, dtype=torch.float64)
    for column, estimate in enumerate(curvature.weights for curvature in found.values()):
        assert math.isclose(estimate.value, float(by_layer[:, column].mean()), rel_tol=1e-10)
        spread = float(by_layer[:, column].std()) / len(images) ** 0.5
        assert estimate.data_standard_error is not None
        assert math.isclose(estimate.data_standard_error, spread, rel_tol=1e-9)
        assert estimate.samples == len(images)


CONVOLUTIONS = {
    "plain": nn.Conv2d(3, 8, 3, padding=1),
    "strided": nn.Conv2d(3, 8, 3, stride=2, padding=1),
    "dilated": nn.Conv2d(3, 8, 3, dilation=2, padding=(1, 2)),
    "grouped": nn.Conv2d(3, 9, (3, 1), groups=3),
    "pointwise": nn.Conv2d(3, 8, 1),
    "few positions": nn.Conv2d(3, 64, 7, bias=False),
    "one position": nn.Conv2d(3, 8, 8),
}


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_gradient_norms_of_every_kind_of_convolution(kind: str) -> None:
    """Strides, padding, dilation, groups and few positions give the norms of gradients taken one by one."""
    convolution = CONVOLUTIONS[kind]
    model = Then(lambda values: F.relu(values).mean((2, 3)))
    model.conv = convolution
    graph = in_float64(captured(model))
    images = torch.randn(5, *IMAGE, dtype=torch.float64)
    directions = torch.randn(5, convolution.out_channels, dtype=torch.float64)
    loss = GraphLoss(graph, images, torch.zeros(5, dtype=torch.int64))
    by_weight, by_input = gradient_norms(loss, images, directions)
    for index in range(5):
        image = images[index : index + 1].clone().requires_grad_()
        value = (loss.outputs(loss.weights, image) * directions[index]).sum()
        weight, pixels = torch.autograd.grad(value, [loss.weights["conv"], image])
        torch.testing.assert_close(by_weight[index, 0], weight.square().sum(), rtol=1e-10, atol=0)
        torch.testing.assert_close(by_input[index, 0], pixels.square().sum(), rtol=1e-10, atol=0)


def z_scores(found: dict[str, LayerCurvature], exact: dict[str, LayerCurvature]) -> list[float]:
    """Errors of all traces in units of their standard errors."""
    return [
        (getattr(found[name], kind).value - getattr(exact[name], kind).value)
        / getattr(found[name], kind).standard_error
        for name in exact
        for kind in ("weights", "activations")
    ]


def test_sampled_traces_agree_with_exact_ones() -> None:
    """Over 20 seeds, errors are distributed as the standard errors say."""
    graph, images, labels = problem(150)
    loss = GraphLoss(graph, images, labels)
    exact = gauss_newton_trace(loss, limits=EXACT, micro_batch=512)
    scores = []
    for seed in range(20):
        found = gauss_newton_trace(loss, limits=SamplingLimits(0.5, max_probes=128), micro_batch=512, seed=seed)
        assert 32 < found["fc"].weights.samples <= 160
        scores += z_scores(found, exact)
    spread = torch.tensor(scores).square().mean().sqrt()
    assert 0.75 < float(spread) < 1.3
    assert max(abs(score) for score in scores) < 5


def test_rounds_go_on_until_the_target_is_met_or_the_budget_spent() -> None:
    """More pairs for a smaller target; all of them, and no error left, where nearly all are needed."""
    graph, images, labels = problem(150)
    loss = GraphLoss(graph, images, labels)
    wide, narrow, full = (gauss_newton_trace(loss, limits=SamplingLimits(error)) for error in (0.2, 0.015, 0.0001))
    assert wide["stem"].weights.samples < narrow["stem"].weights.samples <= full["stem"].weights.samples == 450
    for found, target in ((wide, 0.2), (narrow, 0.015)):
        assert all(c.weights.relative_error <= target and c.weights.converged for c in found.values())
        assert all(c.activations.relative_error <= target for c in found.values())
    assert all(c.weights.standard_error == 0 for c in full.values())
    short = gauss_newton_trace(loss, limits=SamplingLimits(0.0001, max_probes=140))
    assert not any(c.weights.converged for c in short.values())
    assert short["stem"].weights.samples <= 172
    hasty = gauss_newton_trace(loss, limits=SamplingLimits(0.0001, max_seconds=0))
    assert hasty["stem"].weights.samples <= 160
    assert not hasty["stem"].weights.converged


def test_spread_between_images_predicts_that_of_batches() -> None:
    """Traces of disjoint batches vary as the data's standard error of one batch says."""
    graph, images, labels = problem(150)
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(1200, *images.shape[1:], generator=generator, dtype=torch.float64)
    more = images[torch.randint(150, (1200,), generator=generator)] + noise
    traces, claimed = [], []
    for batch in more.split(40):
        found = gauss_newton_trace(GraphLoss(graph, batch, labels[:40]), limits=EXACT, micro_batch=512)
        traces.append([c.weights.value for c in found.values()])
        claimed.append([c.weights.data_standard_error for c in found.values()])
    observed = torch.tensor(traces).std(0)
    expected = torch.tensor(claimed).square().mean(0).sqrt()
    assert torch.all((observed / expected - 1).abs() < 0.5), observed / expected


def test_sums_take_heavy_pairs_and_draw_light_ones() -> None:
    """Values equal to one give the total exactly; a size takes at most 32 pairs more than itself."""
    weights = torch.rand(50, 10, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) ** 8
    weights[3] = 0
    sums = WeightedSum(weights, 1.0)
    asked: list[Tensor] = []

    def ones(indices: Tensor) -> Tensor:
        asked.append(indices)
        return torch.ones(len(indices), 1, dtype=torch.float64)

    for size in (1.0, 40.0, 100.0, 1e4):
        asked.clear()
        found = sums.estimate(ones, size, seed=1)
        assert math.isclose(found.values[0], float(weights.sum()) / 50, rel_tol=1e-12)
        assert found.errors == [0.0]
        pairs = torch.cat(asked)
        assert len(pairs) == sums.cost(size)
        assert len(pairs) <= size + 33
        assert torch.all(weights.flatten()[pairs] > 0)
    assert len(pairs) == int((weights > 0).sum())


def test_what_images_differ_in_is_no_error_of_the_draws() -> None:
    """With as many strata as images of equal weight, the error is that of drawing among the classes of each image."""
    generator = torch.Generator().manual_seed(0)
    weights = torch.full((16, 100), 0.01, dtype=torch.float64)
    values = 100 * torch.rand(16, 1, generator=generator) + torch.rand(16, 100, generator=generator)
    sums, mean = WeightedSum(weights, 32.0), float(values.double().mean())

    def norms(indices: Tensor) -> Tensor:
        return values.double().flatten()[indices][:, None]

    scores = []
    for seed in range(200):
        found = sums.estimate(norms, 64.0, seed)
        scores.append((found.values[0] - mean) / found.errors[0])
        assert found.errors[0] < 0.06  # of one image's classes, 0.29 / 8; of all pairs alike, 29 / 8
    assert 0.85 < float(torch.tensor(scores).square().mean().sqrt()) < 1.2


def test_more_draws_begin_with_the_same_pairs() -> None:
    """A round that needs more computes none of its first pairs anew."""
    weights = torch.ones(64, 1000, dtype=torch.float64)
    sums = WeightedSum(weights, 128.0)
    asked: list[Tensor] = []

    def norms(indices: Tensor) -> Tensor:
        asked.append(indices)
        return torch.ones(len(indices), 1, dtype=torch.float64)

    for size in (128.0, 200.0, 400.0):
        sums.estimate(norms, size, seed=3)
    none, first, _, second, _, third = asked
    assert (len(none), len(first), len(second), len(third)) == (0, 128, 192, 384)
    assert torch.equal(second[:128], first)
    assert torch.equal(third[:192], second)


def test_pairs_sum_to_the_hessian_by_the_logits() -> None:
    """The weighted squares of the directions make diag(p) - p p^T, for sure and unsure images alike."""
    logits = torch.tensor([[0.0, 1.0, -1.0], [30.0, 0.0, 0.0], [800.0, 0.0, -800.0]], dtype=torch.float64)
    pairs = Classes.of(logits)
    directions = pairs.directions(torch.arange(9))[0].reshape(3, 3, 3)
    for image in range(3):
        p = logits[image].softmax(0)
        made = sum(pairs.weights[image, c] * torch.outer(directions[image, c], directions[image, c]) for c in range(3))
        torch.testing.assert_close(made, torch.diag(p) - torch.outer(p, p), rtol=1e-9, atol=1e-15)


def test_micro_batches_change_nothing_but_the_last_digits() -> None:
    """Memory is bounded by the micro-batch; the sums are the same."""
    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    whole, pieces = (gauss_newton_trace(loss, limits=SamplingLimits(0.3), micro_batch=size) for size in (512, 5))
    for name in whole:
        assert math.isclose(whole[name].weights.value, pieces[name].weights.value, rel_tol=1e-12)


def test_a_network_that_is_sure_has_no_curvature() -> None:
    """Where every softmax is exactly one-hot there is nothing to sample, and the trace is zero."""
    graph, images, labels = problem()
    scaled = {**graph.parameters, "fc.weight": graph.parameters["fc.weight"] * 1e9}
    found = gauss_newton_trace(GraphLoss(graph.with_parameters(scaled), images, labels))
    assert all(c.weights.value == 0.0 and c.weights.converged for c in found.values())


def test_agrees_with_hutchinson_on_a_resnet() -> None:
    """On ResNet20 in float32, Hutchinson's probes of the Hessian find the same traces."""
    torch.manual_seed(0)
    network = load_model("pytorchcv:resnet20_cifar10", in_channels=1)
    network.train()(torch.randn(16, 1, 32, 32))
    graph = capture(network.eval(), (1, 32, 32))
    images = torch.randn(2, 1, 32, 32)
    loss = GraphLoss(graph, images, torch.arange(2))
    exact = gauss_newton_trace(loss, limits=EXACT)
    names = list(graph.layers)
    chosen = {name: loss.weights[name] for name in (names[9], names[-2], names[-1])}
    probed = hutchinson_trace(loss, chosen, limits=SamplingLimits(relative_error=0, min_probes=25, max_probes=25))
    for name, estimate in probed.items():
        assert abs(estimate.value - exact[name].weights.value) < 4.5 * estimate.standard_error


def test_progress_tells_pairs_and_error() -> None:
    """Pairs count up to the number that the result names."""
    graph, images, labels = problem(150)
    seen: list[tuple[int, int]] = []
    found = gauss_newton_trace(
        GraphLoss(graph, images, labels),
        limits=SamplingLimits(0.05),
        micro_batch=20,
        progress=lambda done, total, /, **figures: seen.append((done, total)),
    )
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert all(done <= total for done, total in seen)
    assert seen[-1][0] == found["stem"].weights.samples


def test_what_is_not_finite_is_refused() -> None:
    """A NaN in the weights, or a gradient that overflows, gives one clear line."""
    graph, images, labels = problem()
    broken = {**graph.parameters, "fc.weight": graph.parameters["fc.weight"] * math.nan}
    with pytest.raises(TrainingError, match="the network's outputs are not finite"):
        gauss_newton_trace(GraphLoss(graph.with_parameters(broken), images, labels))


def test_the_weights_keep_their_gradients() -> None:
    """Neither the loss's weights nor the graph's tensors get gradients."""
    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    gauss_newton_trace(loss, limits=EXACT)
    assert all(weight.grad is None for weight in loss.weights.values())
    assert torch.equal(loss.weights["fc"], folded_weight(graph.layers["fc"], graph.parameters)[0])
