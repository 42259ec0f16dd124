# SPDX-License-Identifier: MIT
"""Files are hardly larger than the weights alone: integer models by 2 % at most, INT4 ONNX files by 8 %.

The files hold weights, biases and multipliers, whose number does not depend on the image: 32 pixels make them as large as 224 do.
"""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor, nn

from bitwright.export import to_onnx
from bitwright.graph import Graph, capture, layer_costs, load_model, scheme_cost
from bitwright.integer import lower
from bitwright.training import calibrate, quantize
from bitwright.zoo import configurations, published_scheme

SCHEMES = [pair for pair in configurations() if pair[0] in ("resnet18", "resnet50")]
FAST = [("resnet18", "bops0.5"), ("resnet50", "uniform4")]
"""Two of 22 for every run: a mixed one, and the one whose overhead weighs most."""


@cache
def network(model: str) -> tuple[Graph, Tensor]:
    """Random weights whose batch norm knows its statistics, and images."""
    torch.manual_seed(0)
    made = load_model(f"pytorchcv:{model}")
    made.features.final_pool = nn.AvgPool2d(1, stride=1)
    images = torch.randn(8, 3, 32, 32)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        made.train()(images)
    return capture(made.eval(), (3, 32, 32), name=f"pytorchcv:{model}"), images


@pytest.mark.parametrize(
    ("model", "scheme"),
    [pytest.param(*pair, marks=[] if pair in FAST else pytest.mark.slow) for pair in SCHEMES],
)
def test_files_of_every_scheme(model: str, scheme: str) -> None:
    """The file's length is the Model Size column, and little more."""
    graph, images = network(model)
    bits = published_scheme(model, scheme, layers=graph.layers)
    integer = lower(calibrate(quantize(graph, bits, ranges="ema"), [images], "minmax"))
    weights = scheme_cost(layer_costs(graph), bits).size_bytes
    assert weights < len(integer.to_bytes()) <= 1.02 * weights
    assert weights < to_onnx(integer).ByteSize() <= 1.08 * weights


def test_all_schemes_are_there() -> None:
    """Eleven for each network."""
    assert len(SCHEMES) == 22
    assert set(FAST) <= set(SCHEMES)
