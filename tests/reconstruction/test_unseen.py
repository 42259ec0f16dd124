# SPDX-License-Identifier: MIT
"""What images say of a reconstruction that they were not shown to: by the literal formulas, and not decided by a few of them."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from torch import Tensor, nn

from bitwright.graph import capture
from bitwright.graph.execute import execute
from bitwright.reconstruction import unseen
from bitwright.reconstruction.unseen import FORMS, Change, change, errors, in_forms
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
    before = torch.tensor([0.001] * 7 + [1.0], dtype=torch.float64).repeat(FORMS)
    after = torch.tensor([0.0005] * 7 + [2.0], dtype=torch.float64).repeat(FORMS)
    assert after.sum() > before.sum()
    assert change(after, before).ratio == pytest.approx(2**-0.75)
    assert change(before, before) == Change(1, 0)
    assert change(torch.zeros_like(before), torch.zeros_like(before)) == Change(1, 0)


def test_doubt_is_of_images_and_not_of_their_forms() -> None:
    """Forms of an image are averaged first: by the literal formula, form after form; one image leaves no doubt to tell of."""
    torch.manual_seed(0)
    before, after = torch.rand(2, FORMS, 5, dtype=torch.float64)
    found = change(after.flatten(), before.flatten())
    logarithms = [
        sum(math.log(after[form, image] / before[form, image]) for form in range(FORMS)) / FORMS for image in range(5)
    ]
    assert math.log(found.ratio) == pytest.approx(statistics.mean(logarithms))
    assert found.doubt == pytest.approx(statistics.stdev(logarithms) / math.sqrt(5))
    assert change(after[:, 0], before[:, 0]).doubt == 0


def test_worse_is_beyond_two_standard_errors() -> None:
    """No change and a doubtful one are not; nor is one for the better."""
    assert not Change(1.0, 0.0).worse
    assert not Change(1.15, 0.08).worse
    assert Change(1.18, 0.08).worse
    assert not Change(0.5, 0.0).worse


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_is_no_number_is_worse(wrong: float) -> None:
    """A network that returns none on one of many images is never kept."""
    before = torch.ones(FORMS * 5, dtype=torch.float64)
    after = before / 2
    after[3] = wrong
    assert change(after, before).worse


def test_forms_are_shifted_and_half_are_mirrored() -> None:
    """Of each image eight: by no more than a sixteenth of its size, half of them mirrored, its border repeated."""
    images = torch.arange(2 * 32 * 48, dtype=torch.float32).reshape(2, 1, 32, 48)
    made = in_forms(images)
    assert made.shape == (16, 1, 32, 48)
    assert torch.equal(made, in_forms(images))
    seen = set()
    for form in range(8):
        for index, image in enumerate(images[:, 0]):
            part = made[2 * form + index, 0]
            part = part.flip(1) if form % 2 else part
            row, column = divmod(int(part[16, 24] - image[0, 0]), 48)
            down, right = row - 16, column - 24
            assert abs(down) <= 2
            assert abs(right) <= 3
            seen.add((down, right, form % 2))
            rows, columns = ((torch.arange(size) + by).clamp(0, size - 1) for size, by in ((32, down), (48, right)))
            assert torch.equal(part, image[rows][:, columns])
    assert len(seen) > 6
