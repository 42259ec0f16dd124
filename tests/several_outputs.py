# SPDX-License-Identifier: MIT
"""Networks with several outputs, in every form that a module may return them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from bitwright.graph import Graph, capture
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, calibrate, quantize
from graph.networks import randomized

SHAPE = (3, 8, 6)


@dataclass
class Detections:
    """As detectors return them; one is optional."""

    boxes: Tensor
    scores: Tensor
    masks: Tensor | None = None


class Pair(NamedTuple):
    """A named tuple."""

    near: Tensor
    far: Tensor


class Network(nn.Module):
    """A stem, a head of images and two of features; `choose` says what is returned. One layer is called as an output is."""

    def __init__(self, choose: Callable[[Network, Tensor], object]) -> None:
        super().__init__()
        self.choose = choose
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Conv2d(8, 6, 1)
        self.features = nn.Linear(8, 8)
        self.logits = nn.Linear(8, 5)

    def forward(self, images: Tensor) -> object:
        return self.choose(self, self.stem(images))

    def pooled(self, stem: Tensor) -> Tensor:
        """Features, which are not negative."""
        return self.features(stem.mean((2, 3))).relu()


def _detections(net: Network, stem: Tensor) -> Detections:
    made = net.head(stem)
    return Detections(*made.chunk(2, 1))


def _twice(net: Network, stem: Tensor) -> dict[str, object]:
    made = net.logits(net.pooled(stem))
    return {"logits": made, "again": made, "none": None, "maps": [net.head(stem), stem]}


def _moved(net: Network, stem: Tensor) -> list[Tensor]:
    made = net.head(stem)
    return [nn.functional.pixel_shuffle(made.split([4, 2], 1)[0], 2), nn.functional.max_pool2d(made, 2)]


def _viewed(net: Network, stem: Tensor) -> dict[str, Tensor]:
    """As detectors end: anchors apart, classes last; rows of all places; and what is read on, with its channels last."""
    made, pooled = net.head(stem), net.pooled(stem)
    places = made.view(-1, 2, 3, 8, 6).permute(0, 1, 3, 4, 2)
    return {
        "places": places,
        "rows": places.reshape(-1, 2 * 8 * 6, 3),
        "flat": made.flatten(2),
        "scores": made.flatten(2).transpose(1, 2).sigmoid(),
        "stem": stem.permute(0, 2, 3, 1),
        "logits": net.logits(pooled).unflatten(1, (5, 1)),
        "pooled": pooled.view(-1, 2, 2, 2),
    }


def _clamped(net: Network, stem: Tensor) -> tuple[Tensor, ...]:
    made = net.head(stem)
    cut = made.relu()
    return made, cut, cut.clamp(max=0.5), made.flatten(1)


RETURNED: dict[str, tuple[Callable[[Network, Tensor], object], dict[str, tuple[int, ...]]]] = {
    "tuple": (
        lambda net, stem: (net.logits(net.pooled(stem)), net.head(stem)),
        {"output0": (5,), "output1": (6, 8, 6)},
    ),
    "named tuple": (
        lambda net, stem: Pair(net.pooled(stem), net.logits(net.pooled(stem))),
        {"near": (8,), "far": (5,)},
    ),
    "dataclass": (_detections, {"boxes": (3, 8, 6), "scores": (3, 8, 6)}),
    "features and logits": (
        lambda net, stem: {"features": (feature := net.pooled(stem)), "logits": net.logits(feature)},
        {"features": (8,), "logits": (5,)},
    ),
    "twice": (_twice, {"logits": (5,), "again": (5,), "maps.0": (6, 8, 6), "maps.1": (8, 8, 6)}),
    "clamped": (
        _clamped,
        {"output0": (6, 8, 6), "output1": (6, 8, 6), "output2": (6, 8, 6), "output3": (6 * 8 * 6,)},
    ),
    "viewed": (
        _viewed,
        {
            "places": (2, 8, 6, 3),
            "rows": (96, 3),
            "flat": (6, 48),
            "scores": (48, 6),
            "stem": (8, 6, 8),
            "logits": (5, 1),
            "pooled": (2, 2, 2),
        },
    ),
    "moved": (_moved, {"output0": (1, 16, 12), "output1": (6, 4, 3)}),
}
"""What is returned, and the shapes of the outputs by name, in order."""


@cache
def captured(name: str) -> tuple[nn.Module, Graph]:
    """A network with random weights whose batch norm knows its statistics, and its graph."""
    torch.manual_seed(0)
    made = randomized(Network(RETURNED[name][0]))
    return made, capture(made, SHAPE, name=name)


def images(count: int) -> Tensor:
    """Noise."""
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def quantized(name: str, bits: int) -> QuantizedModel:
    """The network at one precision, its outer layers at 8 bits, calibrated."""
    graph = captured(name)[1]
    scheme = Scheme.uniform(graph.layers, Precision(bits, bits))
    return calibrate(quantize(graph, scheme), [images(16)])
