# SPDX-License-Identifier: MIT
"""Networks with gates and activation functions of today: equal integers on every engine."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from bitwright.benchmark import ENGINES, load_engine
from bitwright.graph import Graph, Product, Table, capture
from bitwright.integer import IntegerModel, lower, run
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from export.short import mobilenet_v3
from export.unoptimised import unoptimised
from integer.gated import gated_model
from training.small import digits

BATCHES = (1, 2, 5)
NETWORKS = {
    "few blocks": (mobilenet_v3, 3),
    "mobilenet_v3_small": (models.mobilenet_v3_small, 9),
    "efficientnet_b0": (models.efficientnet_b0, 16),
    "regnet_y_400mf": (models.regnet_y_400mf, 16),
}
"""Networks of torchvision, the first with a few blocks of MobileNetV3, and how many gates each has."""


def _check(model: IntegerModel, images: Tensor, engine: str, folder: Path) -> None:
    """Export, run at every level and batch, and compare all logits."""
    known = ENGINES[engine]
    if not known.installed:
        pytest.skip(f"the extra '{engine}' is not installed")
    path = folder / f"model{known.form.suffix}"
    (unoptimised if engine == "tvm" else known.form.export)(model, path)
    expected = run(model, images).numpy()
    assert len(np.unique(expected)) > 20
    for level in known.levels:
        run_file = load_engine(engine, path, threads=1, level=level)
        for size in BATCHES:
            assert (run_file(images[:size].numpy()) != expected[:size]).sum() == 0, f"level {level}, batch {size}"


@pytest.mark.parametrize(("precision", "residual_bits"), [("W8A8", 8), ("W4A4", 16)])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_small_network_of_gates(engine: str, precision: str, residual_bits: int, tmp_path: Path) -> None:
    """Gates for each channel, maps for each pixel, tables that are computed and looked up."""
    _check(gated_model(precision, residual_bits), digits().calibration(5)[0], engine, tmp_path)


@cache
def graph_of(name: str) -> tuple[Graph, Tensor]:
    """A network with random weights whose batch norm knows its statistics, on images of 32 pixels; and images."""
    torch.manual_seed(0)
    make, _ = NETWORKS[name]
    network = make(num_classes=10).train()
    images = torch.randn(16, 3, 32, 32)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network(images)
    return capture(network.eval(), (3, 32, 32), name=name), images


@cache
def integer_model(name: str, precision: str) -> tuple[IntegerModel, Tensor]:
    """Calibrated and lowered; and images."""
    graph, images = graph_of(name)
    scheme = Scheme.uniform(graph.layers, Precision.parse(precision))
    return lower(calibrate(quantize(graph, scheme), [images], "minmax")), images


@pytest.mark.parametrize("engine", ["onnxruntime"])
def test_mobilenet_v3(engine: str, tmp_path: Path) -> None:
    """Hard-swish, hard-sigmoid and the gates of its blocks, at 8 bits."""
    graph, _ = graph_of("few blocks")
    assert sum(isinstance(node, Product) for node in graph) == NETWORKS["few blocks"][1]
    assert {node.program for node in graph if isinstance(node, Table)} == {("x", "hardswish"), ("x", "hardsigmoid")}
    model, images = integer_model("few blocks", "W8A8")
    _check(model, images, engine, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("precision", ["W8A8", "W4A4"])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("engine", ENGINES)
def test_networks_with_gates(engine: str, name: str, precision: str, tmp_path: Path) -> None:
    """MobileNetV3, EfficientNet and RegNetY in all engines."""
    model, images = integer_model(name, precision)
    assert sum(isinstance(node, Product) for node in graph_of(name)[0]) == NETWORKS[name][1]
    _check(model, images, engine, tmp_path)
