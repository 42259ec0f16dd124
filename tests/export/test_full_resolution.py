# SPDX-License-Identifier: MIT
"""Networks of today at the size of images that they are used at: equal on every engine, none of which refuses one."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from bitwright.benchmark import ENGINES, checked_export
from bitwright.graph import capture, load_model
from bitwright.integer import IntegerModel, lower
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize

pytestmark = [pytest.mark.slow, pytest.mark.timeout(0)]

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))
scene_networks = importlib.import_module("scene_networks")

NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "efficientnet_b0": (models.efficientnet_b0, 224),
    "mobilenet_v3_large": (models.mobilenet_v3_large, 224),
    "regnet_y_400mf": (models.regnet_y_400mf, 224),
    "seresnet50": (lambda: load_model("pytorchcv:seresnet50"), 224),
    "ghostnet": (lambda: load_model("pytorchcv:ghostnet"), 224),
    "detector": (lambda: scene_networks.Detector(in_channels=3), 416),
    "unet": (lambda: scene_networks.UNet(in_channels=3), 256),
}
"""Gates, SiLU, hard-swish, groups, cross-stage parts with three heads, bilinear maps; and the side of their images."""


@cache
def integer_model(name: str) -> tuple[IntegerModel, Tensor]:
    """With random weights whose batch norm knows its statistics, at W4A8 (first and last layers W8A8); and images."""
    torch.manual_seed(0)
    make, size = NETWORKS[name]
    network, images = make(), torch.randn(4, 3, size, size)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(images)
    graph = capture(network.eval(), (3, size, size), name=name)
    scheme = Scheme.uniform(graph.layers, Precision(4, 8))
    return lower(calibrate(quantize(graph, scheme), [images])), images[:3]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", NETWORKS)
def test_at_full_resolution(name: str, engine: str, tmp_path: Path) -> None:
    """The file that is exported is run at batch 1, 2 and 3, with one thread and with all, and has the reference's integers."""
    known = ENGINES[engine]
    if not known.installed:
        pytest.skip(f"the extra '{engine}' is not installed")
    model, images = integer_model(name)
    path = tmp_path / f"model{known.form.suffix}"
    checked = checked_export(known.form.export, model, path, known.form, images=images)
    assert "equal at batch 1, 2 and 3" in checked
