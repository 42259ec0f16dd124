# SPDX-License-Identifier: MIT
"""Sensitivities of a graph: the right loss, the right weights, the right names, and clear refusals."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.errors import DataError, SchemeError, TrainingError, UnknownNameError
from bitwright.graph import capture, folded_weight
from bitwright.quantizer import quantize_weight, weight_scale
from bitwright.scheme import Precision
from bitwright.sensitivity import (
    METRICS,
    GraphLoss,
    SensitivitySettings,
    SensitivityTable,
    activation_formats,
    measure_sensitivity,
    weight_perturbation,
)
from graph.networks import randomized
from sensitivity.problems import IMAGE, dense_hessian, in_float64, problem, small_network


def test_the_loss_is_that_of_the_model_in_eval_mode() -> None:
    """Mean cross entropy with the running statistics of batch norm, and with folded weights as its variables."""
    model = randomized(small_network())
    graph = in_float64(capture(model, IMAGE))
    _, images, labels = problem()
    with torch.no_grad():
        expected = F.cross_entropy(copy.deepcopy(model).double().eval()(images), labels)
    loss = GraphLoss(graph, images, labels)
    torch.testing.assert_close(loss().detach(), expected)
    assert torch.equal(loss.weights["stem"], folded_weight(graph.layers["stem"], graph.parameters)[0])
    assert not torch.equal(loss.weights["stem"], graph.parameters["stem.weight"])


def test_table_holds_traces_and_perturbations_of_folded_weights() -> None:
    """Names and order are the graph's; traces lie within their errors; perturbations are those of the folded weights."""
    graph, images, labels = problem()
    table = measure_sensitivity(graph, images, labels, SensitivitySettings(seed=3), data="noise")
    assert [layer.layer for layer in table.layers] == list(graph.layers)
    assert (table.metric, table.model, table.data, table.batch, table.seed) == (
        "gauss_newton_trace",
        "small",
        "noise",
        12,
        3,
    )
    assert table.unconverged() == ()
    elements = {"stem": 2 * 6 * 6, "depthwise": 4 * 6 * 6, "fc": 4}
    for layer in table.layers:
        exact = float(dense_hessian(graph, layer.layer, images, labels).trace())
        assert abs(layer.trace - exact) < 4 * layer.trace_standard_error + 1e-9 * abs(exact)
        assert layer.data_standard_error is not None
        assert layer.activations is not None
        assert layer.activations.parameters == elements[layer.layer]
        assert list(layer.activations.perturbation) == list(range(2, 9))
        weight = folded_weight(graph.layers[layer.layer], graph.parameters)[0]
        assert layer.parameters == weight.numel()
        assert list(layer.perturbation) == list(range(2, 9))
        assert layer.perturbation[3] == weight_perturbation(weight, 3)
        assert layer.loss_increase(Precision(2, 8)) > layer.loss_increase(Precision(8, 8)) > 0
    assert SensitivityTable.from_dict(table.to_dict()) == table


def test_metrics_of_one_kind_agree() -> None:
    """Probes of the Hessian find the traces that gradient norms give, of weights and of what is read."""
    graph, images, labels = problem()
    exact = measure_sensitivity(graph, images, labels, SensitivitySettings(relative_error=0))
    probed = measure_sensitivity(graph, images, labels, SensitivitySettings(metric="hutchinson_trace"))
    for one, other in zip(exact.layers, probed.layers, strict=True):
        assert abs(one.trace - other.trace) < 4 * other.trace_standard_error
        assert (one.trace_standard_error, other.data_standard_error) == (0.0, None)
        assert one.perturbation == other.perturbation
        assert one.activations is not None
        assert other.activations is not None
        assert abs(one.activations.trace - other.activations.trace) < 4 * other.activations.trace_standard_error
        assert one.activations.perturbation == other.activations.perturbation
    alone = measure_sensitivity(graph, images, labels, SensitivitySettings(relative_error=0, activations=False))
    assert alone.layers == tuple(replace(layer, activations=None) for layer in exact.layers)
    assert all(
        layer.activations is None
        for metric in METRICS
        for layer in measure_sensitivity(
            graph, images, labels, SensitivitySettings(metric=metric, activations=False)
        ).layers
    )
    fisher = measure_sensitivity(graph, images, labels, SensitivitySettings(metric="empirical_fisher"))
    assert [layer.trace for layer in fisher.layers] != [layer.trace for layer in exact.layers]


def test_measured_increases_are_those_of_the_loss() -> None:
    """The loss with one layer at 3 bits, less that without, is the layer's term; likewise for what it reads."""
    graph, images, labels = problem(150)
    table = measure_sensitivity(graph, images, labels, SensitivitySettings(metric="loss_perturbation", bits=[3, 8]))
    loss = GraphLoss(graph, images, labels)
    with torch.no_grad():
        before = loss()
        for layer in table.layers:
            weight = loss.weights[layer.layer]
            scale = weight_scale(weight, 3)
            moved = quantize_weight(weight, scale, 3) * scale.reshape(-1, *[1] * (weight.dim() - 1))
            change = float(loss.at({**loss.weights, layer.layer: moved}) - before)
            assert math.isclose(layer.increase[3][0], change, rel_tol=1e-9)
            assert layer.loss_increase(Precision(3, 8)) >= max(change, 0.0)
            assert layer.activations is not None
            assert abs(layer.activations.increase[8][0]) < abs(layer.activations.increase[3][0])
        # The first layer reads the images, so quantizing those is quantizing what it reads.
        window, scale = activation_formats(loss, [3])["stem"][3]
        coarse = GraphLoss(graph, (images / scale).round().clamp(window.quant_min, window.quant_max) * scale, labels)
        first = table.layers[0].activations
        assert first is not None
        assert math.isclose(first.increase[3][0], float(coarse() - before), rel_tol=1e-9)
    assert SensitivityTable.from_dict(table.to_dict()) == table


def test_progress_reaches_its_total() -> None:
    """Every metric ends with all that it announced done."""
    graph, images, labels = problem()
    for metric in METRICS:
        seen: list[tuple[int, int]] = []
        measure_sensitivity(
            graph,
            images,
            labels,
            SensitivitySettings(metric=metric, relative_error=0.2, bits=[2, 4]),
            progress=lambda done, total, /, seen=seen, **figures: seen.append((done, total)),
        )
        assert seen[-1][0] == seen[-1][1] == max(done for done, _ in seen)


def test_loss_increase_predicts_that_of_random_perturbations() -> None:
    """Half of |tr(H)| / n * ||d||^2 is the mean increase of the loss under small perturbations of random direction."""
    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    table = measure_sensitivity(graph, images, labels, SensitivitySettings(relative_error=0))
    generator = torch.Generator().manual_seed(0)
    base = loss()
    for layer in table.layers:
        weight = loss.weights[layer.layer].detach()
        increases = []
        for _ in range(40):
            step = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
            step *= 1e-3 / step.norm()
            ends = [loss.at({**loss.weights, layer.layer: weight + sign * step}) for sign in (1, -1)]
            increases.append(float((sum(ends) / 2 - base).detach()))  # the gradient cancels
        mean = torch.tensor(increases).mean()
        error = torch.tensor(increases).std() / 40**0.5
        assert abs(float(mean) - layer.mean_trace() / 2 * 1e-6) < 4 * float(error) + 0.05 * abs(float(mean))


def test_the_graph_stays_as_it_is() -> None:
    """Tensors, gradients and requires_grad are untouched, even where the graph holds trained parameters."""
    graph, images, labels = problem()
    held = {
        name: nn.Parameter(tensor) if tensor.is_floating_point() else tensor
        for name, tensor in graph.parameters.items()
    }
    for tensor in held.values():
        if tensor.requires_grad:
            tensor.grad = torch.ones_like(tensor)
    graph = replace(graph, parameters=held)
    before = {name: tensor.detach().clone() for name, tensor in held.items()}
    first = measure_sensitivity(graph, images, labels, SensitivitySettings(relative_error=0.3))
    second = measure_sensitivity(graph, images, labels, SensitivitySettings(relative_error=0.3))
    assert first == second
    for name, tensor in held.items():
        assert torch.equal(tensor, before[name])
        assert tensor.grad is None or torch.equal(tensor.grad, torch.ones_like(tensor))


def test_scale_method_is_that_of_the_quantizer() -> None:
    """The maximum moves 2-bit weights further than the least squares do; traces are the same."""
    graph, images, labels = problem()
    best, largest = (
        measure_sensitivity(
            graph, images, labels, SensitivitySettings(bits=[2], scale_method=method, relative_error=0.3)
        )
        for method in ("mse", "max")
    )
    for one, other in zip(best.layers, largest.layers, strict=True):
        assert one.trace == other.trace
        assert one.perturbation[2] <= other.perturbation[2]
    assert best != largest


def test_images_and_weights_need_not_have_one_dtype() -> None:
    """Images come to the dtype of the weights, so float32 images do for a float64 network."""
    graph, images, labels = problem()
    table = measure_sensitivity(graph, images.float(), labels.int(), SensitivitySettings(relative_error=0.3))
    assert len(table.layers) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda images, labels: (images[:, :1], labels),
            r"small reads images of batch x 2 x 6 x 6, got 12 x 1 x 6 x 6",
        ),
        (lambda images, labels: (images[0], labels), r"got 2 x 6 x 6"),
        (lambda images, labels: (images[:0], labels[:0]), r"at least one image, got none"),
        (
            lambda images, labels: (images, labels[:5]),
            r"expected labels of 12 images, got shape \(5,\)",
        ),
        (lambda images, labels: (images, labels.double()), "got torch.float64"),
        (lambda images, labels: (images, labels + 1), "has 3 classes, but labels go from 1 to 3"),
        (lambda images, labels: (images, labels - 1), "has 3 classes, but labels go from -1 to 1"),
    ],
)
def test_data_that_does_not_fit_is_refused(change: object, message: str) -> None:
    """Images and labels must fit the network and each other."""
    graph, images, labels = problem()
    images, labels = change(images, labels)
    with pytest.raises(DataError, match=message):
        measure_sensitivity(graph, images, labels)


def test_options_that_do_not_exist_are_refused() -> None:
    """An unknown metric is answered with the known ones, a width out of range with the limits."""
    graph, images, labels = problem()
    with pytest.raises(
        UnknownNameError, match=r"unknown metric 'gaus_newton_trace': did you mean 'gauss_newton_trace'\?"
    ):
        measure_sensitivity(graph, images, labels, SensitivitySettings(metric="gaus_newton_trace"))
    for bits in ([1, 4], [9], []):
        with pytest.raises(SchemeError, match="bits must be one or more of 2 to 8, got"):
            measure_sensitivity(graph, images, labels, SensitivitySettings(bits=bits))


def test_weights_that_are_no_numbers_are_refused() -> None:
    """A NaN in the weights gives one clear line."""
    graph, images, labels = problem()
    broken: dict[str, Tensor] = {**graph.parameters, "fc.weight": graph.parameters["fc.weight"] * float("nan")}
    with pytest.raises(TrainingError, match="the network's outputs are not finite: check the weights"):
        measure_sensitivity(replace(graph, parameters=broken), images, labels)
