# SPDX-License-Identifier: MIT
"""Data of the user's own, in every form that a factory may return."""

from __future__ import annotations

import pytest
import torch

from bitwright.data import Preprocessing, load_data
from bitwright.errors import BitwrightError

FORMS = ("sets", "loaders", "batches", "subsets")


@pytest.mark.parametrize("form", FORMS)
def test_every_form_reads_alike(form: str) -> None:
    """Sets, loaders (whatever their order and batches), batches and parts of sets: images by number, labels, classes."""
    data = load_data(f"data.own_data:{form}")
    assert data.name == f"data.own_data:{form}"
    assert (data.classes, data.shape) == (("zero", "one"), (1, 4, 4))
    assert (len(data.train), len(data.test)) == (6, 4)
    images, labels = data.test.read([3, 0])
    assert images[:, 0, 0, 0].tolist() == [9.0, 6.0]
    assert labels.tolist() == [1, 0]
    assert data.train.labels.tolist() == [0, 1, 0, 1, 0, 1]
    (batch,) = data.batches("train", 6)
    assert torch.equal(batch[0], data.train.read(range(6))[0])


def test_what_is_said_of_the_preprocessing() -> None:
    """A factory may say how it normalises; of one that does not, nothing is assumed."""
    assert load_data("data.own_data:batches").preprocessing == Preprocessing((0.5,), (0.25,), crop=4)
    assert not load_data("data.own_data:sets").preprocessing


def test_a_factory_gets_what_it_has_parameters_for() -> None:
    """It is called with the size that the network reads and what was asked for, and with nothing else."""
    data = load_data("data.own_data:digits", image_size=32, preprocessing=Preprocessing(mean=(0.5,), std=(0.125,)))
    assert data.shape == (1, 32, 32)
    assert (data.mean, data.std) == ((0.5,), (0.5,))
    assert not data.fixed_size
    assert load_data("data.own_data:sets", image_size=32).fixed_size


def test_random_transforms_are_seeded() -> None:
    """The same samples are the same in every pass, and others by another seed; torch's own generator stays."""
    data = load_data("data.own_data:noisy")
    before = torch.get_rng_state()
    first, again = (data.train.read([1, 2])[0] for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.equal(data.train.read([1, 2], augment_seed=5)[0], data.train.read([1, 2], augment_seed=6)[0])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("data.own_data:absent", "module 'data.own_data' has no factory 'absent'. It has: Noisy, Samples, batches, "),
        ("data.no_such:thing", "unknown data set 'data.no_such'"),
        ("data.own_data:raising", "'data.own_data:raising' raised ValueError: no such bucket"),
        ("data.own_data:nothing", "returned int, expected (train, test), (train, test, classes), a dictionary of"),
        ("data.own_data:byte_images", "expected samples (image, label) with float images [channels, height, width], got a"),
        ("data.own_data:too_few_names", "has labels up to 1, and names of 1 classes"),
    ],
)  # fmt: skip
def test_what_is_no_data_costs_one_line(name: str, message: str) -> None:
    """It says what was expected, what was got, and of which images."""
    with pytest.raises(BitwrightError) as raised:
        load_data(name)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)
