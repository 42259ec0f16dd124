# SPDX-License-Identifier: MIT
"""Calibration keeps what the training knows of batch norm, and corrects it by what quantization does."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from bitwright.graph import FloatModel, Graph, capture
from bitwright.graph.execute import execute
from bitwright.graph.nodes import Conv2d
from bitwright.scheme import Precision, Scheme
from bitwright.training import (
    TrainSettings,
    calibrate,
    calibrated,
    correct_norm,
    evaluate,
    fine_tune,
    fit,
    quantize,
)
from training.small import SHAPE, SmallResidual, digits


@cache
def trained() -> Graph:
    """The network, trained on digits, with their statistics."""
    torch.manual_seed(0)
    network = SmallResidual()
    fit(network, digits(), TrainSettings(epochs=2, learning_rate=0.1))
    with torch.no_grad():
        for _ in range(30):
            network.train()(digits().calibration(512)[0])
    return capture(network.eval(), SHAPE, name="small")


def given(count: int = 256) -> Tensor:
    """Digits to calibrate on."""
    return digits().calibration(count, 1)[0]


def shifted(images: Tensor) -> Tensor:
    """Digits as the network has never seen them: pale, on grey."""
    return 0.3 * images + 0.5


def scheme(precision: str) -> Scheme:
    """The same bits for all inner layers."""
    return Scheme.uniform(trained().layers, Precision.parse(precision))


@torch.no_grad()
def agreement(model: nn.Module, images: Tensor) -> float:
    """The share of images of which a model says what the float network says."""
    return float((model(images).argmax(1) == FloatModel(trained()).eval()(images).argmax(1)).double().mean())


def test_other_images_do_not_ruin_a_network() -> None:
    """At 8 bits a network calibrated on images unlike its training's says what it said; with their statistics it does not."""
    images, judged = shifted(given()), shifted(digits().test.read(range(500))[0])
    model, count = calibrated(trained(), scheme("W8A8"), images)
    assert count == 256
    assert agreement(model, judged) > 0.97
    model.settle_norm([images])
    assert agreement(model, judged) < 0.9


def test_what_quantization_does_is_corrected() -> None:
    """At few bits the correction gives back much of what the statistics of the training lose, on images like the training's."""
    judged = digits().test.read(range(500))[0]
    kept, corrected = (calibrated(trained(), scheme("W3A3"), given(), settle_norm=asked)[0] for asked in (False, True))
    assert agreement(corrected, judged) > agreement(kept, judged) + 0.02
    settled, _ = calibrated(trained(), scheme("W3A3"), given(), trained=True)
    assert agreement(corrected, judged) > agreement(settled, judged) - 0.02


@pytest.mark.parametrize("precision", ["W8A8", "W2A2"])
def test_the_statistics_are_those_of_the_formula(precision: str) -> None:
    """Means move by the difference, variances by the ratio, each layer behind those that are corrected; by PyTorch's layers."""
    images = shifted(given(64))
    model = calibrate(quantize(trained(), scheme(precision)), [images])
    assert correct_norm(model, [images]) == 64
    graph = model.plan.graph
    made: dict[str, Tensor] = {}
    with torch.no_grad():
        model(images, observe=lambda name, values: made.update({name: values.real()}))
    real: dict[str, Tensor] = {}
    execute(graph, graph.parameters, images, observe=lambda node, values: real.update({node.name: values}))
    parameters, normed = model.parameters_by_name(), [node for node in graph.layers.values() if node.norm is not None]
    assert len(normed) == 4
    for node in normed:
        assert isinstance(node, Conv2d)
        assert node.norm is not None
        sign = parameters[node.norm.weight or ""].sign().reshape(-1, 1, 1, 1)
        integers, scale = model.weight_quantizer(node.name)(parameters[node.weight] * sign)
        weights = graph.parameters[node.weight], (integers * scale.reshape(-1, 1, 1, 1) * sign).detach()
        of_real, of_made = (
            nn.functional.conv2d(values[node.inputs[0]], weight, None, node.stride, node.padding).double()
            for values, weight in zip((real, made), weights, strict=True)
        )
        mean, variance = (graph.parameters[name].double() for name in (node.norm.mean, node.norm.variance))
        ratio = (of_made.var((0, 2, 3), correction=0) + node.norm.eps) / (
            of_real.var((0, 2, 3), correction=0) + node.norm.eps
        )
        expected = mean + of_made.mean((0, 2, 3)) - of_real.mean((0, 2, 3))
        torch.testing.assert_close(parameters[node.norm.mean].double(), expected, rtol=1e-4, atol=1e-5)
        expected = (variance + node.norm.eps) * ratio.clamp(0.25, 4) - node.norm.eps
        torch.testing.assert_close(parameters[node.norm.variance].double(), expected, rtol=1e-4, atol=1e-5)


def test_batches_count_by_their_images() -> None:
    """What is kept is the mean over all images, however they come; once is as good as twice."""
    model = calibrate(quantize(trained(), scheme("W4A4")), [given()])
    statistics = []
    for parts in ([given()], [given()] * 2, torch.split(given(), 100)):
        correct_norm(model, parts)
        statistics.append({name: value for name, value in model.state_dict().items() if "running" in name})
    whole, repeated, parted = (torch.cat([*found.values()]) for found in statistics)
    torch.testing.assert_close(whole, repeated, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(whole, parted, rtol=0.2, atol=0.02)


class Twice(nn.Module):
    """One convolution and norm in two places, with a channel that is always its offset."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        with torch.no_grad():
            self.norm.weight.copy_(torch.tensor([1.2, -0.8, 0.5]))
            self.norm.running_mean.copy_(torch.tensor([0.3, -0.2, 0.0]))  # type: ignore[union-attr]
            self.norm.running_var.copy_(torch.tensor([0.5, 2.0, 0.0]))  # type: ignore[union-attr]
            self.conv.weight[2] = 0

    def forward(self, images: Tensor) -> Tensor:
        once = torch.relu(self.norm(self.conv(images)))
        return self.norm(self.conv(once)).mean((2, 3))


@torch.no_grad()
def test_a_norm_in_two_places_and_a_dead_channel() -> None:
    """Both places count for their norm, and what does not vary stays as it is."""
    torch.manual_seed(0)
    network, images = Twice().eval(), torch.randn(64, 3, 8, 8)
    graph = capture(network, (3, 8, 8), name="twice")
    model = calibrate(quantize(graph, Scheme.uniform(graph.layers, Precision(8, 8))), [images])
    correct_norm(model, [images])
    (norm,) = {layer.norm for layer in graph.layers.values()}
    assert norm is not None
    found = model.parameters_by_name()
    assert float(found[norm.mean][2]) == 0
    assert float(found[norm.variance][2]) == 0
    torch.testing.assert_close(found[norm.variance], graph.parameters[norm.variance], rtol=0.02, atol=0.0)
    torch.testing.assert_close(model(images), network(images), rtol=0.05, atol=0.02)


def test_trained_integers_are_no_float_network_to_correct_by() -> None:
    """What a training of integers left is given the statistics of the images, by which its own stay what they are."""
    model, _ = fine_tune(trained(), scheme("W2A2"), digits(), TrainSettings(epochs=1, learning_rate=0.05))
    left = model.float_graph()
    scores = [
        evaluate(calibrated(left, scheme("W2A2"), given(512), trained=again)[0], digits().batches("test", 250))
        for again in (False, True)
    ]
    assert scores[1]["top1_percent"] > scores[0]["top1_percent"] + 5
