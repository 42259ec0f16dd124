# SPDX-License-Identifier: MIT
"""The float baseline computes what the graph computes, to the last digits of float32, at any batch size."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from bitwright.export import export_float_onnx
from bitwright.graph import FloatModel, Graph
from export.models import RESNET20, graph_of
from graph.networks import Called, Then, captured


def assert_close(graph: Graph, images: Tensor, path: Path) -> None:
    """ONNX Runtime and FloatModel in float64 agree to 1e-5 of the largest logit, at batch 1 and 4."""
    export_float_onnx(graph, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in (1, 4):
        with torch.no_grad():
            expected = FloatModel(graph).double().eval()(images[:size].double()).numpy()
        (got,) = session.run(["logits"], {"images": images[:size].numpy()})
        assert got.dtype == np.float32
        assert float(np.std(expected)) > 0
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * float(np.abs(expected).max()))


def test_resnet20(tmp_path: Path) -> None:
    """Convolutions with folded norms, additions, average pooling, a classifier."""
    graph, images = graph_of(RESNET20, 32)
    assert_close(graph, images, tmp_path / "float.onnx")


@pytest.mark.parametrize(
    "model",
    [
        Then(lambda made: nn.functional.relu6(made)),
        Then(lambda made: nn.functional.hardtanh(made, -0.5, 0.25)),
        Then(lambda made: nn.functional.max_pool2d(made, 3, 2, 1, ceil_mode=True)),
        Then(
            lambda made: nn.functional.max_pool2d(made, 2, 3, 1, ceil_mode=True)
        ),  # whose last window begins behind the image
        Then(lambda made: nn.functional.max_pool2d(made, (3, 2), (2, 3), (0, 1), ceil_mode=True)),
        Then(lambda made: nn.functional.avg_pool2d(made, 3, 2, 1)),
        Then(lambda made: torch.cat([made.relu(), made], 1)),
        Then(lambda made: torch.cat(made.chunk(2, 1)[::-1], 1)),
        Then(lambda made: made.flatten(1).clamp(max=0.5)),
        Called(
            lambda made, images: made.norm(made.fc(nn.functional.dropout(made.conv(images).mean((2, 3)), 0.5, False))),
            conv=nn.Conv2d(3, 8, 3, bias=False, dilation=2),
            fc=nn.Linear(8, 5, bias=False),
            norm=nn.BatchNorm1d(5),
        ),
        Called(
            lambda made, images: (made.norm(images) + made.other(images)).relu(),
            norm=nn.BatchNorm2d(3),
            other=nn.Conv2d(3, 3, 3, padding=1, groups=3),
        ),
    ],
    ids=[
        "relu6",
        "hardtanh",
        "max_pool",
        "max_pool_behind",
        "max_pool_of_pairs",
        "avg_pool",
        "concat",
        "slice",
        "clip_max",
        "linear",
        "norm_and_add",
    ],
)
def test_operations(model: nn.Module, tmp_path: Path) -> None:
    """Every kind of node has its ONNX form."""
    graph = captured(model)
    generator = torch.Generator().manual_seed(3)
    assert_close(graph, torch.randn(4, *graph.input_shape, generator=generator), tmp_path / "float.onnx")
