# SPDX-License-Identifier: MIT
"""Classes of a data set as outputs of a model: by synset, by index, or refused."""

from __future__ import annotations

import random

import pytest
import torch
from torchvision.datasets.imagenette import Imagenette

from bitwright.data import ImageData, InMemoryImages, imagenet_synsets, match_outputs, subset
from bitwright.errors import DataError


def data(*classes: str) -> ImageData:
    """One training and one test image of each class, of the brightness of its number."""
    count = len(classes)
    pixels = torch.arange(count, dtype=torch.uint8).reshape(count, 1, 1, 1).expand(count, 1, 2, 2)
    images = InMemoryImages(pixels, torch.arange(count), mean=[0.0], std=[1.0])
    return ImageData("some", tuple(classes), (1, 2, 2), images, images, (0.0,), (1.0,), "here")


def test_imagenets_synsets() -> None:
    """There are 1,000, each once, in the order of their names, and Imagenette's ten are among them at the known places."""
    synsets = imagenet_synsets()
    assert len(set(synsets)) == 1000
    assert list(synsets) == sorted(synsets)
    places = [synsets.index(name) for name in Imagenette._WNID_TO_CLASS]
    assert places == [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


@pytest.mark.parametrize("suffix", ["", "-tench", "_0", ".tar", " x"])
@pytest.mark.parametrize("count", [2, 10, 999])
def test_folders_named_after_synsets_are_found_by_name(count: int, suffix: str) -> None:
    """Whatever part of ImageNet, each class is the output of its synset, in both splits, and a line says so."""
    synsets = sorted(random.Random(count).sample(imagenet_synsets(), count))
    matched = match_outputs(data(*(name + suffix for name in synsets)), 1000)
    expected = [imagenet_synsets().index(name) for name in synsets]
    for images in (matched.data.train, matched.data.test):
        assert images.labels.tolist() == expected
        assert images.read([count - 1])[1].tolist() == expected[-1:]
    assert [matched.data.classes[label] for label in expected] == synsets
    assert (
        f"{count} of the model's 1,000, by their synsets: '{synsets[0]}{suffix}' is output {expected[0]},"
        in matched.how
    )
    assert f"in {count} of 1,000 classes" in str(matched.data)
    images, labels = matched.data.calibration(2)
    assert len(images) == 2
    assert set(labels.tolist()) <= set(expected)
    assert "1 of each class" in str(subset(matched.data.train, 1.0))


@pytest.mark.parametrize(
    ("classes", "outputs", "said"),
    [
        (("cat", "dog"), 1000, "outputs 0 to 1, in the order of their names ('cat' is no synset of ImageNet)"),
        (("n01440764", "n99999999"), 1000, "('n99999999' is no synset of ImageNet)"),
        (("n01440764", "n01440764x"), 1000, "('n01440764x' is no synset of ImageNet)"),
        (("n01440764", "n01440764-b"), 1000, "(two folders name one synset)"),
        (("n01440764", "n02102040"), 10, "the model 10 outputs: they are taken for outputs 0 to 1"),
    ],
)
def test_others_are_taken_by_index(classes: tuple[str, ...], outputs: int, said: str) -> None:
    """Labels stay, and the line says why."""
    given = data(*classes)
    matched = match_outputs(given, outputs)
    assert matched.data is given
    assert said in matched.how


def test_as_many_classes_as_outputs_are_what_they_are() -> None:
    """Nothing is changed and nothing said: neither for ImageNet whole, nor for ten folders and ten outputs."""
    for classes in (imagenet_synsets(), tuple(Imagenette._WNID_TO_CLASS)):
        given = data(*classes)
        assert match_outputs(given, len(classes)).data is given
        assert match_outputs(given, len(classes)).how == ""


def test_more_classes_than_outputs_are_refused() -> None:
    """With what to do instead."""
    message = r"the model has 2 outputs, but some has 3 classes: .* with --classes 3 or --replace-head"
    with pytest.raises(DataError, match=message):
        match_outputs(data("a", "b", "c"), 2)
