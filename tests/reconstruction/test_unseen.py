# SPDX-License-Identifier: MIT
"""What images say of a reconstruction that they were not shown to: by the literal formulas, and not decided by a few of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from bitwright.graph import capture
from bitwright.graph.execute import execute
from bitwright.reconstruction import unseen
from bitwright.reconstruction.unseen import errors, geometric_mean
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize


class Two(nn.Module):
    """A map, and numbers a thousand times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        made = self.first(images).relu()
        return {"map": self.second(made), "sums": 1000 * made.mean((2, 3))}


def test_errors_of_several_outputs_are_parts_of_their_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """The squared error of each output over its mean square, added up; some images at a time."""
    monkeypatch.setattr(unseen, "BATCH", 3)
    torch.manual_seed(0)
    graph = capture(Two().eval(), (3, 8, 8), name="two")
    images = torch.randn(8, 3, 8, 8)
    model = calibrate(quantize(graph, Scheme.uniform(graph.layers, Precision(4, 4))), [images]).eval()
    with torch.no_grad():
        real, made = execute(graph, graph.parameters, images), model(images)
    wanted = torch.zeros(8, dtype=torch.float64)
    for name in ("map", "sums"):
        y, x = (values[name].double().flatten(1) for values in (real, made))
        wanted += (x - y).square().sum(1) / y.square().sum(1).mean()
    assert torch.allclose(errors(model, images, graph.parameters), wanted)


def test_one_image_does_not_decide() -> None:
    """Seven errors are halved, and the eighth, nearly all of their sum, doubled; where nothing is wrong nothing changed."""
    before = torch.tensor([0.001] * 7 + [1.0], dtype=torch.float64)
    after = torch.tensor([0.0005] * 7 + [2.0], dtype=torch.float64)
    assert after.sum() > before.sum()
    assert geometric_mean(after, before) == pytest.approx(2**-0.75)
    assert geometric_mean(before, before) == 1
    assert geometric_mean(torch.zeros_like(before), torch.zeros_like(before)) == 1
