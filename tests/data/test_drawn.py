# SPDX-License-Identifier: MIT
"""What ranges are observed on is of all images where these can be reached; where not, an order by classes is said."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, Subset, TensorDataset, WeightedRandomSampler

from bitwright.data import batches as our_batches
from bitwright.data import load_data
from bitwright.data.drawn import choose, draw_images
from bitwright.data.own import _data
from bitwright.errors import BitwrightWarning, DataError
from bitwright.sensitivity.measure import _together
from bitwright.task import classification

CLASSES, EACH = 10, 40
LABELS = torch.arange(CLASSES).repeat_interleave(EACH)
IMAGES = LABELS[:, None, None, None] + torch.zeros(CLASSES * EACH, 1, 2, 2)
SORTED = TensorDataset(IMAGES, LABELS)


class Stream(IterableDataset[tuple[Tensor, Tensor]]):
    """The images in an order, one by one."""

    def __init__(self, order: Tensor) -> None:
        self.order = order

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((IMAGES[place], LABELS[place]) for place in self.order.tolist())


def as_dictionaries(samples: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
    """A collation of one's own."""
    return {"image": torch.stack([image for image, _ in samples])}


REACHED: dict[str, Callable[[], Any]] = {
    "a loader in order": lambda: DataLoader(SORTED, batch_size=16),
    "a shuffled loader": lambda: DataLoader(SORTED, batch_size=16, shuffle=True),
    "a loader with workers": lambda: DataLoader(SORTED, batch_size=16, num_workers=1),
    "a loader of one image": lambda: DataLoader(SORTED),
    "a part of a set": lambda: DataLoader(Subset(SORTED, range(390)), batch_size=16),
    "dictionaries": lambda: DataLoader(SORTED, batch_size=16, collate_fn=as_dictionaries),
    "batches of a list": lambda: list(DataLoader(SORTED, batch_size=16)),
    "images alone": lambda: list(IMAGES.split(7)),
    "our own loader": lambda: our_batches(load_data("mnist-5k").train, 16),
}


def test_images_of_two_shapes_are_refused() -> None:
    """In one line, wherever batches become one tensor: to calibrate, to measure, and as a set of one's own."""
    labels = torch.zeros(4, dtype=torch.int64)
    batches = [(torch.zeros(4, 3, 8, 8), labels), (torch.zeros(4, 3, 16, 16), labels)]
    message = r"expected .*images.* of one shape in all batches, got 3 x 8 x 8 and 3 x 16 x 16"
    for made in (
        lambda: draw_images(batches, 8),
        lambda: draw_images(iter(batches), 8),
        lambda: _together(batches, None, classification()),
        lambda: _data("own:images", (batches, batches), fixed=True),
    ):
        with pytest.raises(DataError, match=message):
            made()
    masks = [(batches[0][0], labels), (batches[0][0], torch.zeros(4, 8, 8, dtype=torch.int64))]
    with pytest.raises(DataError, match="expected labels of one shape in all batches, got one number and 8 x 8: make"):
        _together(masks, None, classification())


@pytest.mark.parametrize("given", REACHED)
def test_all_images_are_reached(given: str) -> None:
    """A seeded choice, the same each time, of as many classes as chance gives, not of the first."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = draw_images(REACHED[given](), 100, seed=3)
        assert torch.equal(found, draw_images(REACHED[given](), 100, seed=3))
    assert len(found) == 100
    assert not torch.equal(found, draw_images(REACHED[given](), 100, seed=4))
    if given != "our own loader":
        assert len(found[:, 0, 0, 0].unique()) == CLASSES
        assert torch.equal(
            found, IMAGES[: 390 if "part" in given else None][choose(390 if "part" in given else 400, 100, 3)]
        )


def test_all_there_is() -> None:
    """Fewer images than asked for are all, in their order, from anything."""
    for given in (DataLoader(SORTED, batch_size=16), list(IMAGES.split(7)), iter(IMAGES.split(7))):
        assert torch.equal(draw_images(given, 1000), IMAGES)


def test_an_order_by_classes_is_said() -> None:
    """Of what can only be gone through, the first images are taken: with a warning where they are in order."""
    shuffled = torch.randperm(len(LABELS), generator=torch.Generator().manual_seed(0))
    in_order = DataLoader(Stream(torch.arange(len(LABELS))), batch_size=16)
    for given in (in_order, iter(in_order), DataLoader(SORTED, sampler=range(400), batch_size=16)):
        with pytest.warns(
            BitwrightWarning, match=r"the first 100 images, .* order of their classes, 0 to 2: .* Shuffle"
        ):
            assert torch.equal(draw_images(given, 100), IMAGES[:100])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(draw_images(DataLoader(Stream(shuffled), batch_size=16), 100), IMAGES[shuffled][:100])
        draw_images(in_order, 20)  # few may be in order by chance
        draw_images(iter(IMAGES.split(7)), 100)  # no labels, no order
        weights = WeightedRandomSampler([1.0] * 400, 400)
        for sampler in (weights, RandomSampler(SORTED, replacement=True)):  # which mean what they draw
            assert len(draw_images(DataLoader(SORTED, sampler=sampler, batch_size=16), 100)) == 100


def test_nothing() -> None:
    """No batch is an error."""
    for given in ([], iter([])):
        with pytest.raises(DataError, match="at least one batch of images to observe, got none"):
            draw_images(given, 10)
