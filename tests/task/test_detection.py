# SPDX-License-Identifier: MIT
"""Boxes from maps: what is encoded is decoded, the loss has its least where the maps say the boxes, and scores are COCO's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from bitwright.data import load_data
from bitwright.errors import DataError, MissingLibraryError, TaskError
from bitwright.returned import returned
from bitwright.task import decoded, detection, require_outputs
from bitwright.task.boxes import in_order
from bitwright.task.detection import _placed, _scale_of, detection_loss
from bitwright.training import evaluate

TASK = detection()
CLASSES = 10


def told(targets: Tensor, sides: tuple[int, ...] = (16, 8, 4)) -> dict[str, Tensor]:
    """Maps that say these boxes, surely."""
    maps = {f"map{side}": torch.zeros(len(targets), 5 + CLASSES, side, side) for side in sides}
    for values in maps.values():
        values[:, 4] = -12
    ordered = in_order(maps)
    for image, rows in enumerate(targets):
        for row in rows[rows[:, 0] >= 0]:
            box = row[None, 1:]
            values = ordered[int(_scale_of(box, ordered))]
            y, x, centre, size = _placed(box, values)
            place = values[image, :, y[0], x[0]]
            place[:2] = centre[0].clamp(1e-4, 1 - 1e-4).logit()
            place[2:4], place[4], place[5 + int(row[0])] = size[0], 12, 12
    return maps


@pytest.fixture(scope="module")
def targets() -> Tensor:
    """Of some scenes."""
    return load_data("digit-scenes:boxes").test.read(range(40))[1]


def test_maps_that_say_the_boxes_are_decoded_to_them(targets: Tensor) -> None:
    """All boxes of all scales; and torchmetrics gives them its full score."""
    maps = told(targets)
    for rows, found in zip(targets, decoded(maps), strict=True):
        there = rows[rows[:, 0] >= 0]
        order = found["boxes"][:, 0].argsort()
        wanted = there[there[:, 1].argsort()]
        torch.testing.assert_close(found["boxes"][order], wanted[:, 1:], atol=1e-3, rtol=0)
        assert torch.equal(found["labels"][order], wanted[:, 0].long())
    scores = evaluate(lambda images: maps, [(torch.zeros(len(targets), 1, 64, 64), targets)], task=TASK)
    assert scores["map_percent"] > 99
    assert scores["map50_percent"] > 99
    assert str(scores).startswith("mean AP ")


def test_the_loss_is_least_where_the_maps_say_the_boxes(targets: Tensor) -> None:
    """Any change of a place that has a box costs; so does a box where there is none; and an image's loss is its own."""
    maps = told(targets)
    least = detection_loss(maps, targets)
    assert 0 < float(least) < 0.02
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        moved = {name: values + 0.5 * torch.randn(values.shape, generator=generator) for name, values in maps.items()}
        assert detection_loss(moved, targets) > least
    alone = [
        detection_loss({name: values[place : place + 1] for name, values in moved.items()}, targets[place : place + 1])
        for place in range(len(targets))
    ]
    torch.testing.assert_close(detection_loss(moved, targets), torch.stack(alone).mean())
    nothing = torch.full((1, 5, 5), -1.0)
    assert torch.isfinite(detection_loss(told(nothing), nothing))
    assert all(len(found["boxes"]) == 0 for found in decoded(told(nothing)))


@pytest.mark.parametrize("turned", [False, True])
def test_the_scale_of_a_box_is_by_its_longer_side(turned: bool) -> None:
    """In places of the map, along either axis: maps need not be square."""
    boxes = torch.tensor([[0.2, 0.0, 0.3, 1.0], [0.0, 0.2, 0.25, 0.3], [0.0, 0.2, 0.5, 0.3], [0.0, 0.0, 1.0, 1.0]])
    if turned:
        boxes = boxes[:, [1, 0, 3, 2]]
    maps = [torch.zeros(1, 15, *((wide, high) if turned else (high, wide))) for high, wide in ((4, 16), (2, 8), (1, 4))]
    assert _scale_of(boxes, maps).tolist() == [0, 0, 1, 2]


def test_without_a_box_there_is_no_precision() -> None:
    """Rather than minus a hundred percent."""
    nothing = torch.full((2, 5, 5), -1.0)
    with pytest.raises(
        DataError, match="mean average precision needs at least one box, but no image has any: judge on"
    ):
        evaluate(lambda images: told(nothing), [(torch.zeros(2, 1, 64, 64), nothing)], task=TASK)


def test_one_scale_is_enough(targets: Tensor) -> None:
    """A tensor alone is a map, whatever its name."""
    (maps,) = told(targets[:4], (16,)).values()
    assert detection_loss(maps, targets[:4]) == detection_loss({"any": maps}, targets[:4]) < 0.02


@pytest.mark.parametrize("sides", [(16,), (16, 8, 4)])
def test_a_detector_is_taught_by_another(targets: Tensor, sides: tuple[int, ...]) -> None:
    """Of one scale or several: the distance is zero where both say the same, and grows with any change of a place with a box."""
    taught = told(targets[:4], sides)
    generator = torch.Generator().manual_seed(0)
    moved = {name: values + torch.randn(values.shape, generator=generator) for name, values in taught.items()}
    assert TASK.distance(taught, taught, 4.0).abs() < 1e-6
    assert TASK.distance(moved, taught, 4.0) > 0.1
    if len(sides) == 1:
        alone = TASK.distance(returned(moved), returned(taught), 4.0)
        assert torch.equal(alone, TASK.distance(moved, taught, 4.0))
    for part in (slice(0, 2), slice(2, 4), slice(4, 5), slice(5, None)):
        one = {name: values.clone() for name, values in taught.items()}
        one[f"map{sides[0]}"][:, part] = moved[f"map{sides[0]}"][:, part]
        assert TASK.distance(one, taught, 4.0) > 1e-4


def test_what_is_no_detector_and_what_are_no_boxes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line, which says what to do."""
    with pytest.raises(
        TaskError, match=r"returns 10 for each image, but the task detection expects \(5 \+ classes, height, w"
    ):
        require_outputs(TASK, (10,), "it")
    with pytest.raises(
        DataError, match=r"real numbers of shape \(batch, boxes, 5\), got torch.int64 .* digit-scenes:boxes"
    ):
        TASK.check(torch.zeros(2, 8, 8, dtype=torch.int64), (15, 8, 8))
    with pytest.raises(
        DataError, match="3 classes apart, but boxes have classes up to 9: make the model with num_classes=10"
    ):
        TASK.check(torch.full((1, 2, 5), 9.0), (8, 8, 8))
    monkeypatch.setattr("bitwright.extras.find_spec", lambda name: None)
    with pytest.raises(MissingLibraryError, match=r"pip install 'bitwright\[detection\]'"):
        TASK.scores[0].make((15, 8, 8))
