# SPDX-License-Identifier: MIT
"""Batches are taken as users give them, and refused by what was expected."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from bitwright.data import load_data
from bitwright.data.given import IMAGES, LABELS, each_images, each_labelled
from bitwright.errors import DataError

X, Y = torch.randn(4, 1, 2, 2), torch.arange(4)

GOOD: dict[str, Any] = {
    "loader": DataLoader(TensorDataset(X, Y), 4),
    "tuples": [(X, Y)],
    "lists": ([X, Y],),
    "more": [(X, Y, torch.zeros(4))],
    "generator": ((X, Y) for _ in range(1)),
    **{f"{image}, {label}": [{image: X, label: Y}] for image in IMAGES for label in LABELS},
}


@pytest.mark.parametrize("name", list(GOOD))
def test_batches_of_every_kind(name: str) -> None:
    """Pairs and dictionaries, in anything that can be iterated."""
    ((images, labels),) = each_labelled(GOOD[name])
    assert torch.equal(images, X)
    assert torch.equal(labels, Y)


def test_images_alone() -> None:
    """Where labels do not matter, they may be missing or there."""
    for batch in (X, (X,), (X, Y), {"pixel_values": X}, {"image": X, "label": Y}):
        (images,) = each_images([batch])
        assert torch.equal(images, X)


BAD: dict[str, tuple[Any, str]] = {
    "tensor": (X, r"got a tensor of shape \(4, 1, 2, 2\): put it in a list"),
    "dictionary": ({"images": X, "labels": Y}, "got dict with the keys 'images', 'labels': put it in a list"),
    "number": (3, "got int"),
    "text": ("mnist-5k", "got str"),
    "data set": (load_data("mnist-5k"), r"a whole data set: take its batches, data\.batches"),
    "no labels": ([X], "got a batch of a tensor of shape"),
    "half": ([(X,)], "without labels"),
    "other keys": ([{"pixels": X, "labels": Y}], "dict with the keys 'pixels', 'labels'"),
    "lists": ([([1, 2], [3, 4])], r"tuple of \(list of \(int, int\), list of \(int, int\)\)"),
    "empty": ([{}], "dict with the keys none"),
}


@pytest.mark.parametrize("name", list(BAD))
def test_what_is_no_batch_is_said_to_be_none(name: str) -> None:
    """One line: what was expected, and what was got."""
    batches, got = BAD[name]
    with pytest.raises(DataError, match=rf"^expected a DataLoader or another iterable of batches.*{got}") as error:
        list(each_labelled(batches))
    assert "\n" not in str(error.value)
