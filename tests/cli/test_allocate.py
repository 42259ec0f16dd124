# SPDX-License-Identifier: MIT
"""The frontier's plot shows the model zoo's schemes of the same network, where there are figures for them."""

from __future__ import annotations

import dataclasses

import pytest

from bitwright.cli.allocate import comparable
from bitwright.graph import Graph, capture, load_model
from bitwright.sensitivity import LayerSensitivity, SensitivityTable
from bitwright.zoo import configurations


@pytest.fixture(scope="module")
def resnet18() -> Graph:
    """The zoo's smallest network."""
    return capture(load_model("pytorchcv:resnet18"), (3, 224, 224), name="pytorchcv:resnet18")


def table_of(graph: Graph, *bits: int) -> SensitivityTable:
    """Figures at these widths."""
    moved = {width: 2.0**-width for width in bits}
    layers = tuple(LayerSensitivity(layer, 10, 1.0, 0.1, 10, True, moved) for layer in graph.layers)
    return SensitivityTable(layers, "gauss_newton_trace", graph.model, "", 1, 0)


def test_schemes_of_the_zoo(resnet18: Graph) -> None:
    """All eleven of ResNet18; none without figures at 8 bits, and none of a network with other layers or another name."""
    names = [scheme.name for scheme in comparable(resnet18, table_of(resnet18, 4, 8))]
    assert names == [scheme for model, scheme in configurations() if model == "resnet18"]
    assert len(names) == 11
    assert comparable(resnet18, table_of(resnet18, 2, 4)) == []
    other = capture(load_model("pytorchcv:resnet20_cifar10"), (3, 32, 32), name="pytorchcv:resnet18")
    assert comparable(other, table_of(other, 4, 8)) == []
    renamed = dataclasses.replace(resnet18, model="mine")
    assert comparable(renamed, table_of(renamed, 4, 8)) == []
