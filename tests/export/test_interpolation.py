# SPDX-License-Identifier: MIT
"""Bilinear interpolation within a network, from one end to the other: trained as lowered, and in all engines."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.benchmark import ENGINES
from bitwright.export import Target
from bitwright.graph import capture
from bitwright.integer import IntegerModel, prepare, run
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from graph.networks import randomized
from integer.certified import certified
from random_networks import RandomModel, differences

SHAPE = (3, 8, 6)


class Interpolating(nn.Module):
    """To twice, four times and eight times the size, to any size, smaller, and from corner to corner; the last leaves it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.middle = nn.Conv2d(16, 6, 3, stride=2, padding=1)
        self.head = nn.Conv2d(6, 4, 1)

    def forward(self, images: Tensor) -> Tensor:
        stem = F.relu(self.stem(images))
        twice = F.interpolate(stem, scale_factor=2, mode="bilinear")
        corners = F.interpolate(self.stem(images), size=(16, 12), mode="bilinear", align_corners=True)
        x = self.middle(torch.cat([twice, corners], 1))
        x = x + F.interpolate(F.interpolate(x, scale_factor=4, mode="bilinear"), size=x.shape[2:], mode="bilinear")
        x = F.interpolate(x, size=(11, 4), mode="bilinear")
        return F.interpolate(self.head(x), scale_factor=8, mode="bilinear")


@cache
def interpolating(precision: str) -> RandomModel:
    """The integers of the network, with images and what the reference makes of them."""
    torch.manual_seed(0)
    graph = capture(randomized(Interpolating()), SHAPE)
    model = calibrate(
        quantize(graph, Scheme.uniform(graph.layers, Precision.parse(precision))), [torch.randn(8, *SHAPE)]
    )
    integer, images = certified(model), torch.randn(3, *SHAPE)
    expected = _every(integer, images)
    got: dict[str, Tensor] = {}
    with torch.no_grad():
        model(images, lambda name, value: got.__setitem__(name, value.values))
    assert {
        name: int((got[name].double() != value.double()).sum()) for name, value in expected.items()
    } == dict.fromkeys(expected, 0)
    assert prepare(integer).run(images).equal(run(integer, images))
    logits: Any = run(integer, images)
    assert len(logits.unique()) > 100
    return RandomModel(0, graph, integer, images.numpy(), None, Target.ANY, logits.numpy().astype(np.int32))


def _every(integer: IntegerModel, images: Tensor) -> dict[str, Tensor]:
    """All tensors of the reference executor."""
    found: dict[str, Tensor] = {}
    run(integer, images, lambda name, value: found.__setitem__(name, value))
    return found


_SLOW = pytest.mark.slow  # TVM compiles each operation


@pytest.mark.parametrize(
    ("engine", "precision"),
    [
        pytest.param(engine, precision, marks=_SLOW if engine == "tvm" or precision == "W8A8" else ())
        for engine in ENGINES
        for precision in ("W4A4", "W8A8")
    ],
)
def test_interpolation_is_exact(engine: str, precision: str) -> None:
    """Every tensor of the training forward, the prepared executor, and every engine at each level, batch and thread count."""
    if not ENGINES[engine].installed:
        pytest.skip(f"the extra '{engine}' is not installed")
    assert differences(interpolating(precision), engine) == {}
