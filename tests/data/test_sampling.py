# SPDX-License-Identifier: MIT
"""Seeded choices that keep the share of every class."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.data import ImageData, ImageSubset, InMemoryImages, part_of, subset
from bitwright.data.sampling import derive_seed, spread, stratified
from bitwright.errors import DataError


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.data())
def test_every_class_keeps_its_share(labels: list[int], data: st.DataObject) -> None:
    """For any labels and count, distinct images are chosen, and no class is off its exact share by one or more."""
    count = data.draw(st.integers(1, len(labels)))
    chosen = stratified(torch.tensor(labels), count, seed=data.draw(st.integers(0, 5)))
    assert len(chosen) == count == len(set(chosen.tolist()))
    assert chosen.tolist() == sorted(chosen.tolist())
    for label in set(labels):
        got = sum(labels[index] == label for index in chosen.tolist())
        assert abs(got - count * labels.count(label) / len(labels)) < 1


@given(st.lists(st.integers(0, 6), max_size=80), st.integers(0, 5))
def test_any_stretch_has_its_share_of_each_class(labels: list[int], seed: int) -> None:
    """Of all images in the order of `spread`, the first ones and others; and those of one class stay in order."""
    order = spread(torch.tensor(labels, dtype=torch.int64), seed).tolist()
    assert sorted(order) == list(range(len(labels)))
    for label in set(labels):
        places = [place for place, image in enumerate(order) if labels[image] == label]
        images = [order[place] for place in places]
        assert images == sorted(images)
        half = sum(place < len(labels) // 2 for place in places)
        assert abs(half - len(places) / 2) <= 1.5


def test_classes_of_one_image_are_drawn_into_halves() -> None:
    """Not the first classes into the first half."""
    halves = [set(spread(torch.arange(40), seed)[:20].tolist()) for seed in range(5)]
    assert all(5 < len(half & set(range(20))) < 15 for half in halves)
    assert len({frozenset(half) for half in halves}) == 5


@given(st.lists(st.integers(0, 6), min_size=1, max_size=80), st.data())
def test_covering_reaches_every_class_that_it_can(labels: list[int], data: st.DataObject) -> None:
    """To cover, as many classes are chosen as there are images for; where shares cover them all, nothing changes."""
    count, seed = data.draw(st.integers(1, len(labels))), data.draw(st.integers(0, 5))
    plain = stratified(torch.tensor(labels), count, seed)
    chosen = stratified(torch.tensor(labels), count, seed, cover=True)
    assert len(chosen) == count == len(set(chosen.tolist()))
    reached = {labels[index] for index in chosen.tolist()}
    assert len(reached) == min(count, len(set(labels)))
    if len({labels[index] for index in plain.tolist()}) == len(reached):
        assert torch.equal(plain, chosen)


def test_calibration_images_cover_rare_classes() -> None:
    """Of 990 images of one class and 1 each of ten others, 11 images have them all."""
    labels = torch.cat([torch.zeros(990, dtype=torch.int64), torch.arange(1, 11)])
    images = InMemoryImages(torch.zeros(1000, 1, 2, 2, dtype=torch.uint8), labels, mean=[0.0], std=[1.0])
    data = ImageData("mine", tuple("abcdefghijk"), (1, 2, 2), images, images, (0.0,), (1.0,), "here")
    assert data.calibration(11)[1].tolist() == [0, *range(1, 11)]


def test_choices_are_random_and_seeded() -> None:
    """Over many seeds each image is chosen about as often; one seed always gives the same images."""
    labels = torch.arange(40) % 2
    counts = torch.zeros(40)
    for seed in range(400):
        counts[stratified(labels, 10, seed)] += 1
    assert counts.min() > 60  # 100 expected, with a standard deviation of 8.7
    assert counts.max() < 140
    assert torch.equal(stratified(labels, 10, 3), stratified(labels, 10, 3))


def test_seeds_depend_on_every_part() -> None:
    """A derived seed has 32 bits, and changes with each number and with how they are grouped."""
    parts = [(0,), (1,), (0, 1), (1, 0), (0, [1]), (0, [1, 2]), (0, [2, 1]), ([0, 1], [2])]
    seeds = [derive_seed(*part) for part in parts]
    assert len(set(seeds)) == len(seeds) - 1  # a number and a list of that one number are the same
    assert all(0 <= seed < 2**32 for seed in seeds)


def test_a_subset_reads_its_parent(digits: ImageData) -> None:
    """A subset of 1 % has 4 digits of each class, reports it, and reads them from its parent; subsets nest."""
    part = subset(digits.train, 0.01, seed=2)
    assert len(part) == 40
    assert str(part) == "40 of 4,000 images, 4 of each class"
    assert torch.equal(part[5][0], digits.train[int(part.indices[5])][0])
    assert torch.equal(part.labels, digits.train.labels[part.indices])
    assert len(subset(part, 0.5)) == 20
    assert str(subset(part, 0.4)) == "16 of 40 images, 1 to 2 of each class"
    assert torch.equal(subset(digits.train, 1.0).indices, torch.arange(4000))
    assert torch.equal(subset(digits.train, 0.01, seed=2).indices, part.indices)
    assert isinstance(part, ImageSubset)


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_parts_are_rounded_down(total: int, count: int) -> None:
    """A part is what floats mean by it, and one image from a half on; the least that works is printed so that it works."""
    count = min(count, total)
    assert part_of(total, count / total) == count
    assert part_of(total, 1) == total
    with pytest.raises(DataError) as caught:
        part_of(total, 0.49 / total)
    least = str(caught.value).split("works is ")[1].split(",")[0]
    assert part_of(total, float(least)) == 1
    assert float(least) <= 0.505 / total
    assert part_of(total, min(1.0, 1.99 / total)) == 1


@pytest.mark.parametrize("fraction", [0, -0.1, 1.1, float("nan"), 1e-6])
def test_impossible_fractions_are_refused(digits: ImageData, fraction: float) -> None:
    """A fraction outside (0, 1], or too small for one image, is refused."""
    with pytest.raises(DataError, match=r"expected a fraction|leave none: the least that works is 0\.000125, "):
        subset(digits.train, fraction)
