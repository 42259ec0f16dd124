# SPDX-License-Identifier: MIT
"""Scores against counting by hand, and against torchmetrics' own."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassJaccardIndex

from bitwright.errors import DataError, TaskError, UnknownNameError
from bitwright.task import Score, Scores, Task, agreement, classification, dense_classification
from bitwright.task.pairs import half_squared
from bitwright.training import evaluate

GENERATOR = torch.Generator().manual_seed(0)


def itself(outputs: Tensor) -> Tensor:
    """A network whose images are its outputs."""
    return outputs


def test_classification_counts_right_guesses() -> None:
    """Over batches of several sizes: the very percentage of the counts, and torchmetrics' own in float32."""
    outputs, labels = torch.randn(90, 12, generator=GENERATOR), torch.randint(12, (90,), generator=GENERATOR)
    found = evaluate(itself, list(zip(outputs.split(37), labels.split(37), strict=True)))
    ranked = outputs.argsort(1, descending=True) == labels[:, None]
    assert found.images == 90
    assert found["top1_percent"] == found.leading == 100 * int(ranked[:, 0].sum()) / 90
    assert found["top5_percent"] == 100 * int(ranked[:, :5].sum()) / 90
    theirs = MulticlassAccuracy(12, top_k=5, average="micro")(outputs, labels)
    assert abs(float(theirs) - found["top5_percent"] / 100) < 1e-6
    assert str(found) == f"top-1 {found['top1_percent']:.2f} %, top-5 {found['top5_percent']:.2f} %"
    assert json.loads(json.dumps(found.to_dict())) == {
        "images": 90, "top1_percent": found["top1_percent"], "top5_percent": found["top5_percent"]
    }  # fmt: skip
    few = evaluate(itself, [(outputs[:, :3], labels % 3)])
    assert few["top5_percent"] == 100  # among three classes all are guessed


def test_dense_classification_counts_pixels() -> None:
    """Pixels that do not count are left out; classes that occur nowhere do not make the mean; torchmetrics says the same."""
    outputs = torch.randn(5, 4, 6, 7, generator=GENERATOR)
    outputs[:, 3] = -100  # never guessed, and below nowhere true
    masks = torch.randint(3, (5, 6, 7), generator=GENERATOR)
    masks[:, ::2, 0] = 255
    found = evaluate(itself, [(outputs[:2], masks[:2]), (outputs[2:], masks[2:])], task=dense_classification())
    guesses, counted = outputs.argmax(1), masks != 255
    assert found["pixel_accuracy_percent"] == 100 * int((guesses == masks)[counted].sum()) / int(counted.sum())
    ratios = []
    for label in range(3):
        guessed, true = (guesses == label) & counted, masks == label
        ratios.append(int((guessed & true).sum()) / int((guessed | true).sum()))
    assert abs(found["mean_iou_percent"] - 100 * sum(ratios) / 3) < 1e-12
    theirs = MulticlassJaccardIndex(4, ignore_index=255, average="none")(outputs, masks)[:3].mean()
    assert abs(float(theirs) - found.leading / 100) < 1e-6


def test_agreement_needs_no_labels() -> None:
    """The same outputs have no error; others have that of all outputs together; a smaller one is better."""
    outputs = torch.randn(6, 4, 3, generator=GENERATOR)
    same = evaluate(itself, [outputs[:4], outputs[4:]], task=agreement(itself))
    assert (same["relative_error_percent"], same["same_guess_percent"]) == (0, 100)
    moved = evaluate(lambda images: 1.25 * images, [outputs], task=agreement(itself))
    assert abs(moved["relative_error_percent"] - 25) < 1e-5
    assert moved["same_guess_percent"] == 100
    error = agreement().scores[0]
    assert error.better(1.0, 2.0)
    assert not error.better(2.0, 1.0)
    with pytest.raises(TaskError, match=r"compares with the float network: give it with --reference GRAPH"):
        evaluate(itself, [outputs], task=agreement())
    with pytest.raises(DataError, match="the reference returns"):
        evaluate(itself, [outputs], task=agreement(lambda images: images[:, :2]))


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    """Outputs of another shape by naming the task to use; targets of another kind by what was expected."""
    maps, vectors = torch.zeros(2, 3, 4, 4), torch.zeros(2, 3)
    masks, labels = torch.zeros(2, 4, 4, dtype=torch.int64), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(TaskError, match=r"the net returns 3 x 4 x 4 .* use --task dense-classification"):
        evaluate(itself, [(maps, masks)], model="the net")
    with pytest.raises(TaskError, match=r"expects \(classes, height, width\): use --task classification"):
        evaluate(itself, [(vectors, labels)], task=dense_classification())
    with pytest.raises(TaskError, match=r"returns 4 x 4 for each image, .* use --task agreement"):
        evaluate(itself, [(maps[0], labels)])
    with pytest.raises(DataError, match="expected a class for each pixel"):
        evaluate(itself, [(maps, labels)], task=dense_classification())
    with pytest.raises(
        DataError, match="tells 3 classes apart, but pixels have 0 to 3: those that do not count must be 9"
    ):
        evaluate(itself, [(maps, masks + torch.arange(4))], task=dense_classification(9))
    with pytest.raises(DataError, match="expected a class for each image"):
        evaluate(itself, [(vectors, vectors)])
    with pytest.raises(TaskError, match="has no scores, so that nothing can be evaluated"):
        evaluate(itself, [(vectors, labels)], task=Task(name="own", loss=torch.nn.functional.mse_loss))
    with pytest.raises(DataError, match="no images to evaluate on"):
        evaluate(itself, [])


def test_figures_are_shown_with_their_units() -> None:
    """SplitLayer, unit and heading are the score's; a key that there is not is answered with those that there are."""
    error = Score("mae", "mean error", lambda shape: None, unit="px", higher_is_better=False, digits=1)
    count = Score("hits", "hits", lambda shape: None, unit="", digits=0)
    found = Scores(3, (error, count), (2.345, 7.0))
    assert str(found) == "mean error 2.3 px, hits 7"
    assert (error.heading, count.heading, classification().scores[0].heading) == (
        "Mean error (px)",
        "Hits",
        "Top-1 (%)",
    )
    with pytest.raises(UnknownNameError, match="unknown score 'hit': did you mean 'hits'"):
        found["hit"]


OTHER_FORMS: dict[str, Callable[[Tensor], object]] = {
    "tuple": lambda made: (made,),
    "list": lambda made: [made, None],
    "torchvision's segmenters": lambda made: {"out": made},
}


@pytest.mark.parametrize("form", OTHER_FORMS)
def test_references_return_what_modules_do(form: str) -> None:
    """In any form, as the network that is judged."""
    outputs = torch.randn(6, 4, 3, generator=GENERATOR)
    scores = evaluate(OTHER_FORMS[form], [outputs], task=agreement(OTHER_FORMS[form]))
    assert scores.values == (0, 100)


def test_nothing_is_spread_over_what_it_is_compared_with() -> None:
    """Targets of another shape are refused where PyTorch would broadcast them; and so are those of more images."""
    for targets, message in (
        (torch.ones(4, 1), "the reference returns 1 for each image, the model 10: give the float network"),
        (torch.ones(4), "the reference returns one number for each image, the model 10"),
        ({"a": torch.ones(4, 10)}, "the reference returns a 10 for each image, the model 10"),
        (torch.ones(1, 10), "the reference returns 1 x 10 for each image, the model 4 x 10"),
    ):
        with pytest.raises(DataError, match=message):
            half_squared(torch.zeros(4, 10), targets)
    assert half_squared(torch.zeros(4, 10), torch.ones(4, 10)) == 0.5


def test_any_task_can_be_taught() -> None:
    """A loss whose targets are not like outputs needs no word of its own on how far a teacher is."""
    made = Task(
        name="classes", loss=lambda outputs, targets: torch.nn.functional.cross_entropy(outputs, targets.long())
    )
    assert made.distance(torch.zeros(4, 10), torch.ones(4, 10), 4.0) == 0.5
