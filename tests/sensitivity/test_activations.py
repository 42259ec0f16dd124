# SPDX-License-Identifier: MIT
"""Scales and perturbations of what layers read, and the signs of tensors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bitwright.graph import capture, load_model
from bitwright.graph.execute import execute
from bitwright.graph.signs import negative_tensors
from bitwright.quantizer import TensorFormat, least_squares_scale, plan
from bitwright.scheme import Precision, Scheme
from bitwright.sensitivity import GraphLoss, activation_formats, activation_perturbations
from bitwright.training import Calibration
from bitwright.training.calibrate import RangeObserver
from sensitivity.problems import problem


def squared_error(values: Tensor, scale: float, window: TensorFormat) -> float:
    """Number by number."""
    low, high = window.quant_min, window.quant_max
    return sum((min(max(round(value / scale), low), high) * scale - value) ** 2 for value in values.tolist())


@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bit_width", [2, 4, 8])
def test_scale_is_that_of_calibration(bit_width: int, signed: bool) -> None:
    """What calibration would choose from the same values; no other of the hundred has a smaller error."""
    values = torch.randn(500, dtype=torch.float64)
    values = values if signed else values.relu()
    window = TensorFormat.of(bit_width, negative=signed)
    scale = least_squares_scale(values, window)
    observer = RangeObserver()
    observer.update(values)
    chosen = observer.scale(window, Calibration.MSE)
    assert math.isclose(scale, chosen, rel_tol=1e-5)
    full = max(float(values.max()) / window.quant_max, float(values.min()) / window.quant_min if signed else 0)
    errors = [squared_error(values, full * step / 100, window) for step in range(1, 101)]
    assert math.isclose(squared_error(values, scale, window), min(errors), rel_tol=1e-9)


def test_a_tensor_of_zeros_has_a_scale() -> None:
    """Nothing to scale, nothing to divide by zero."""
    assert least_squares_scale(torch.zeros(5), TensorFormat.symmetric(4)) == 1.0
    assert least_squares_scale(-torch.ones(5), TensorFormat.unsigned(4)) == 1.0


def test_perturbation_is_the_squared_error_of_one_image() -> None:
    """The mean over images of the sum over elements, of the tensor that the layer reads."""
    graph, images, labels = problem()
    loss = GraphLoss(graph, images, labels)
    tensors: dict[str, Tensor] = {}
    execute(
        graph, graph.parameters, images, observe=lambda node, values: tensors.__setitem__(node.name, values.detach())
    )
    formats = activation_formats(loss, [3])
    found = activation_perturbations(loss, [3])
    for name in graph.layers:
        source = graph[name].inputs[0]
        window, scale = formats[name][3]
        assert window.negative <= negative_tensors(graph)[source]
        expected = squared_error(tensors[source].flatten(), scale, window)
        assert math.isclose(found[name][3], expected / len(images), rel_tol=1e-9)


@pytest.mark.parametrize(
    "name",
    [
        "export.short:mobilenet_v2",
        "export.short:densenet",
        "pytorchcv:resnet20_cifar10",
        pytest.param("torchvision:mobilenet_v2", marks=pytest.mark.slow),
        pytest.param("pytorchcv:densenet40_k12_cifar10", marks=pytest.mark.slow),
        pytest.param("torchvision:resnet18", marks=pytest.mark.slow),
    ],
)
def test_signs_are_those_of_the_quantizers(name: str) -> None:
    """What a layer reads is signed here where its quantizer is signed."""
    graph = capture(load_model(name), (3, 32, 32))
    quantizers = plan(graph, Scheme.uniform(graph.layers, Precision(8, 8)))
    negative = negative_tensors(graph)
    for layer in graph.layers.values():
        assert negative[layer.inputs[0]] == quantizers.format(quantizers.graph[layer.name].inputs[0]).negative
    assert len(set(negative.values())) == 2
