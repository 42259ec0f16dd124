# SPDX-License-Identifier: MIT
"""Calibration, training, fine-tuning, evaluation and measurement on batches and losses of the user's own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.errors import BitwrightWarning, DataError, FileFormatError, TaskError, TrainingError, UnknownNameError
from bitwright.graph import FloatModel, Graph
from bitwright.scheme import Precision, Scheme
from bitwright.sensitivity import SensitivitySettings, measure_sensitivity
from bitwright.task import Task, agreement
from bitwright.training import Checkpointing, TrainSettings, calibrate, evaluate, fine_tune, quantize, train
from training.small import digits, few, small_graph

graph = cache(small_graph)


def scheme() -> Scheme:
    """W4A4."""
    return Scheme.uniform(graph().layers, Precision(4, 4))


def batches(count: int = 2) -> list[dict[str, Tensor]]:
    """Dictionaries, in a list."""
    images, labels = digits().calibration(48 * count)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return [{"pixel_values": images[some], "labels": labels[some]} for some in order.split(48)]


def pairs(given: list[dict[str, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """The same as pairs."""
    return [(batch["pixel_values"], batch["labels"]) for batch in given]


def same(one: nn.Module, other: nn.Module) -> bool:
    """Equal in every tensor."""
    return all(torch.equal(value, other.state_dict()[name]) for name, value in one.state_dict().items())


def test_every_function_takes_them() -> None:
    """Dictionaries and pairs give the same scales, weights, counts and traces as tensors do."""
    given = batches()
    found: Graph = graph()
    images, labels = (torch.cat(parts) for parts in zip(*pairs(given), strict=True))
    calibrated = [
        calibrate(quantize(found, scheme()), some, "minmax")
        for some in (given, pairs(given), [x for x, _ in pairs(given)])
    ]
    assert same(calibrated[0], calibrated[1])
    assert same(calibrated[0], calibrated[2])
    tuned = [fine_tune(found, scheme(), some, TrainSettings(learning_rate=0.1))[0] for some in (given, pairs(given))]
    assert same(tuned[0], tuned[1])
    assert not same(tuned[0], fine_tune(found, scheme(), given, TrainSettings(epochs=0))[0])
    floats = FloatModel(found).eval()
    assert evaluate(floats, given) == evaluate(floats, pairs(given)) == evaluate(floats, [(images, labels)])
    few_probes = {"activations": False, "max_probes": 8}
    tables = [
        measure_sensitivity(found, given, settings=SensitivitySettings(**few_probes)),
        measure_sensitivity(found, images, labels, SensitivitySettings(**few_probes)),
    ]
    assert tables[0] == tables[1]


def endless() -> Iterator[tuple[Tensor, Tensor]]:
    """Has no length."""
    yield from pairs(batches(1))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda: endless(), "expected a DataLoader, or a list of batches.*got generator"),
        (lambda: digits(), "expected a DataLoader, or a list of batches.*got ImageData"),
        (lambda: torch.zeros(4, 1, 28, 28), "expected a DataLoader, or a list of batches.*got Tensor"),
        (lambda: [torch.zeros(4, 1, 28, 28)], "expected a DataLoader or another iterable.*a tensor of shape"),
    ],
)
def test_training_needs_batches_that_come_again(given: Any, message: str) -> None:
    """What has no length, or no labels, is refused by what was expected."""
    with pytest.raises(DataError, match=message):
        train(FloatModel(graph()), given(), TrainSettings(epochs=1, learning_rate=0.1))


def test_other_refusals() -> None:
    """No images, labels that are no classes, a part of batches of one's own."""
    with pytest.raises(DataError, match="at least one batch"):
        measure_sensitivity(graph(), [])
    with pytest.raises(DataError, match="at least one batch"):
        fine_tune(graph(), scheme(), [], TrainSettings())
    with pytest.raises(DataError, match=r"integers of shape \(batch,\), got torch.float32 of shape \(2, 10\)"):
        evaluate(FloatModel(graph()).eval(), [(torch.zeros(2, 1, 28, 28), torch.zeros(2, 10))])
    with pytest.raises(DataError, match="give fewer"):
        fine_tune(graph(), scheme(), batches(), TrainSettings(data_fraction=0.5))


IMAGES = torch.zeros(4, 1, 28, 28)
CLASSES = torch.arange(4)


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (IMAGES, CLASSES.float(), "integer"),
        (IMAGES, CLASSES.bool(), "integer|labels"),
        (IMAGES, F.one_hot(CLASSES, 10), "integer"),
        (IMAGES, CLASSES + 7, "labels"),
        (IMAGES.byte(), CLASSES, "small reads normalised images in floating point, got torch.uint8"),
        (IMAGES.expand(-1, 3, -1, -1), CLASSES, "small reads images of batch x 1 x 28 x 28, got . x 3 x 28 x 28"),
    ],
    ids=["floats", "booleans", "one-hot integers", "too large", "pixels", "colours"],
)
def test_batches_that_do_not_fit(images: Tensor, labels: Tensor, message: str) -> None:
    """Every function that reads them refuses them by what was expected, before PyTorch does in its own words."""
    given = [(images, labels)] * 2
    for use in (
        lambda: evaluate(FloatModel(graph()).eval(), given),
        lambda: fine_tune(graph(), scheme(), given, TrainSettings()),
        lambda: train(FloatModel(graph()), given, TrainSettings()),
        lambda: measure_sensitivity(graph(), given, settings=SensitivitySettings(max_probes=4)),
    ):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BitwrightWarning)  # of few images
            with pytest.raises(DataError, match=message):
                use()


def test_labels_of_other_types() -> None:
    """Classes in any integer type train as in PyTorch's own; so do probabilities, which a cross entropy takes as well."""
    settings = TrainSettings(learning_rate=0.1, augment=False)
    made = []
    for convert in (Tensor.long, Tensor.int, lambda labels: F.one_hot(labels, 10).float()):
        model = FloatModel(graph())
        train(model, [(x, convert(y.long())) for x, y in pairs(batches())], settings)
        made.append(model)
    assert same(made[0], made[1])
    for one, other in zip(made[0].parameters(), made[2].parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_words_that_are_none() -> None:
    """Ranges and calibrations are refused with those that are known."""
    with pytest.raises(UnknownNameError, match="unknown ranges 'wide': Known: ema, fixed, learned"):
        quantize(graph(), scheme(), ranges="wide")
    with pytest.raises(UnknownNameError, match="unknown calibration 'percent': did you mean 'percentile'"):
        calibrate(quantize(graph(), scheme()), pairs(batches()), "percent")


def own(loss: Callable[[Tensor, Tensor], Tensor], name: str = "own") -> Task:
    """A task that is nothing but a loss."""
    return Task(name=name, loss=loss)


class Halved(nn.Module):
    """A part of a network's own loss, as a module."""

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return 0.5 * F.cross_entropy(logits, labels)


def many_labels(logits: Tensor, labels: Tensor) -> Tensor:
    """For labels that are no classes."""
    return F.binary_cross_entropy_with_logits(logits, labels)


def test_a_loss_of_ones_own(tmp_path: Path) -> None:
    """It is what is minimised; labels may be anything that it reads; a training goes on with the same loss only."""
    found = graph()
    plain, halved = (FloatModel(found), FloatModel(found))
    train(plain, few(64), TrainSettings(epochs=1, learning_rate=0.05, weight_decay=0.0))
    train(
        halved,
        few(64),
        TrainSettings(epochs=1, learning_rate=0.1, weight_decay=0.0),
        task=own(Halved()),
    )
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(halved.state_dict()[name], value)
    images, labels = digits().calibration(64)
    targets = [(images, F.one_hot(labels, 10).float())]
    settings = TrainSettings(epochs=2, learning_rate=0.1)
    _, result = fine_tune(
        found,
        scheme(),
        targets,
        settings,
        checkpoint=Checkpointing(tmp_path / "state"),
        task=own(many_labels, "many-labels"),
    )
    assert result.losses[1] < result.losses[0]
    with pytest.raises(FileFormatError, match=r"task\.name was many-labels, is classification"):
        fine_tune(found, scheme(), targets, settings, checkpoint=Checkpointing(tmp_path / "state", resume=True))
    with pytest.raises(
        TrainingError, match=r"expected a loss of shape \(\), one number for a batch, got shape \(64,\)"
    ):
        train(
            plain,
            [(images, labels)],
            TrainSettings(epochs=1, learning_rate=0.1),
            task=own(lambda x, y: x.sum(1)),
        )
    with pytest.raises(TaskError, match="the task own has no labels that could be smoothed"):
        train(
            plain,
            [(images, labels)],
            TrainSettings(epochs=1, learning_rate=0.1, label_smoothing=0.1),
            task=own(Halved()),
        )


def test_a_network_imitates_another_without_labels(tmp_path: Path) -> None:
    """Images alone train it, towards the reference's outputs; with another reference the training does not go on."""
    found = graph()
    moved = found.with_parameters({name: value * 1.1 for name, value in found.parameters.items()})
    images = [part for part, _ in few(64)]
    settings = TrainSettings(epochs=3, learning_rate=0.01, weight_decay=0.0)
    checkpoint = Checkpointing(tmp_path / "state", resume=True)
    teacher = FloatModel(found).eval()
    result = train(FloatModel(moved), images, settings, task=agreement(teacher), checkpoint=checkpoint)
    assert result.losses[-1] < result.losses[0]
    with pytest.raises(FileFormatError, match=r"task\.reference differs"):
        train(FloatModel(moved), images, settings, task=agreement(FloatModel(moved).eval()), checkpoint=checkpoint)


@pytest.mark.parametrize(("count", "asked", "counted"), [(64, True, 64), (64, False, 0), (63, False, 0), (63, True, 0)])
def test_batch_norm_is_settled_on_enough_images(count: int, asked: bool, counted: int) -> None:
    """From 64 images on, if asked; the count is in the result; fewer are left aside with a warning."""
    options = {"calibration_images": count, "calibration": "minmax", "settle_norm": asked, "trained": True}

    def tuned() -> tuple[nn.Module, int]:
        model, result = fine_tune(graph(), scheme(), digits(), TrainSettings(epochs=0), **options)  # type: ignore[arg-type]
        return model, result.norm_images

    if asked and not counted:
        with pytest.warns(
            BitwrightWarning, match=r"keeps its statistics: 63 calibration images are too few.*64 are the"
        ):
            model, images = tuned()
    else:
        model, images = tuned()
    assert images == counted
    kept = torch.equal(model.state_dict()["network.stem.1.running_mean"], graph().parameters["stem.1.running_mean"])
    assert kept == (not counted)


def test_batch_norm_is_corrected_by_any_images() -> None:
    """A float network's statistics are corrected by few images, too, without a warning; a training leaves its own then."""
    options = {"calibration_images": 8, "calibration": "minmax"}
    _, result = fine_tune(graph(), scheme(), digits(), TrainSettings(epochs=0), **options)  # type: ignore[arg-type]
    assert result.norm_images == 8
    few = TrainSettings(epochs=1, data_fraction=0.05)
    with pytest.warns(BitwrightWarning, match="keeps its statistics: 8 calibration images are too few"):
        _, result = fine_tune(graph(), scheme(), digits(), few, **options)  # type: ignore[arg-type]
    assert result.norm_images == 0


def test_settling_by_hand_warns_of_few_images() -> None:
    """It is done as told, and said."""
    model = calibrate(quantize(graph(), scheme()), batches(1), "minmax")
    with pytest.warns(BitwrightWarning, match="has the statistics of 48 images now: fewer than 64"):
        assert model.settle_norm(batches(1)) == 48
    assert model.settle_norm(batches(2)) == 96
