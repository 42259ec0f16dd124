# SPDX-License-Identifier: MIT
"""Images in memory."""

from __future__ import annotations

import pytest
import torch
from torchvision import transforms
from torchvision.transforms.functional import to_pil_image

from bitwright.data import ImageData, InMemoryImages
from bitwright.errors import DataError


def test_a_batch_is_its_samples(digits: ImageData) -> None:
    """Reading a batch gives each sample, in the order asked for; a position may come twice."""
    positions = [17, 3, 999, 3]
    images, labels = digits.test.read(positions)
    for image, label, position in zip(images, labels, positions, strict=True):
        assert torch.equal(image, digits.test[position][0])
        assert label == digits.test[position][1]


def test_floats_are_those_of_torchvision(digits: ImageData) -> None:
    """Normalised pixels equal torchvision's ToTensor and Normalize to the last bit."""
    assert isinstance(digits.test, InMemoryImages)
    to_floats = transforms.Compose([transforms.ToTensor(), transforms.Normalize(digits.mean, digits.std)])
    for position in range(20):
        assert torch.equal(digits.test[position][0], to_floats(to_pil_image(digits.test.pixels[position])))


def test_augmentation_is_a_function_of_its_seed(digits: ImageData) -> None:
    """One seed, one result; another seed, another; digits are shifted but never mirrored."""
    chosen = range(64)
    first, again, other = (digits.train.read(chosen, augment_seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert isinstance(digits.train, InMemoryImages)
    assert not digits.train.flip


def test_flips_only_where_they_are_asked_for() -> None:
    """With `flip`, about half of the images are mirrored."""
    pixels = torch.zeros(200, 1, 8, 8, dtype=torch.uint8)
    pixels[:, :, :, 2] = 255  # a vertical line left of the middle, which a shift of 2 can take to column 4 at most
    labels = torch.zeros(200)
    sides = []
    for flip in (False, True):
        images = InMemoryImages(pixels, labels, mean=[0.0], std=[1.0], flip=flip)
        read, _ = images.read(range(200), augment_seed=0)
        sides.append(int((read[:, 0, 3:6].sum(dim=1).argmax(dim=1) > 4).sum()))
    assert sides[0] == 0
    assert 40 < sides[1] < 100  # half are mirrored; the line of 4 in 5 of those is then right of column 4


def test_every_sample_is_visited_once(digits: ImageData) -> None:
    """A data set is a sequence: it ends, counts from the end, and refuses other positions."""
    assert len(list(iter(digits.test))) == len(digits.test) == 1000
    assert torch.equal(digits.test[-1][0], digits.test[999][0])
    with pytest.raises(IndexError, match="below 1000, got 1000"):
        digits.test[1000]


@pytest.mark.parametrize(
    ("pixels", "labels", "mean"),
    [
        (torch.zeros(2, 1, 4, 4), torch.zeros(2), [0.5]),
        (torch.zeros(2, 4, 4, dtype=torch.uint8), torch.zeros(2), [0.5]),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(3), [0.5]),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.zeros(2), [0.5]),
    ],
)
def test_shapes_that_do_not_fit_are_refused(pixels: torch.Tensor, labels: torch.Tensor, mean: list[float]) -> None:
    """Pixels must be uint8 in four dimensions, with a label each and a mean for each channel."""
    with pytest.raises(DataError, match="expected"):
        InMemoryImages(pixels, labels, mean=mean, std=mean)
