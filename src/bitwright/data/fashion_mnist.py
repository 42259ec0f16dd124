# SPDX-License-Identifier: MIT
"""`fashion-mnist`: 60,000 training and 10,000 test pictures of clothes, from a folder, Debian or a download."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor

from bitwright.data.cache import cache_folder
from bitwright.data.idx import read_idx
from bitwright.data.image_data import ImageData
from bitwright.data.in_memory import InMemoryImages
from bitwright.data.registry import source
from bitwright.data.request import Request
from bitwright.errors import DataError

DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")

CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip

MEAN, STD = 0.2860, 0.3530
"""Of the 60,000 training images."""

SIDE = 28

FILES = {
    "train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
    "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
}


@source("fashion-mnist")
def load_fashion_mnist(request: Request) -> ImageData:
    """Load the pictures.

    Raises:
        DataError: If the given folder lacks the files, they are damaged, or they are nowhere and cannot be downloaded.
    """
    folder = _find(request.folder)
    shape, mean, std = request.grey(SIDE, MEAN, STD)
    train, test = (
        InMemoryImages(*_read_split(folder, split), mean=mean, std=std, image_size=shape[1], flip=True)
        for split in FILES
    )
    return ImageData(
        name="fashion-mnist",
        classes=CLASSES,
        shape=shape,
        train=train,
        test=test,
        mean=mean,
        std=std,
        source=f"Fashion-MNIST in {folder}",
    )


def _find(given: str | None) -> Path:
    """The folder with the four files: the given one, or the first of Debian's, the cache, a download into the cache."""
    if given is not None:
        # torchvision keeps its files two levels below its root.
        for folder in (Path(given), Path(given) / "FashionMNIST" / "raw"):
            if _is_complete(folder):
                return folder
        wanted = ", ".join(name for names in FILES.values() for name in names)
        raise DataError(f"no Fashion-MNIST in '{given}': expected {wanted}, each as it is or with .gz.")
    cached = cache_folder() / "fashion-mnist"
    for folder in (DEBIAN_FOLDER, cached):
        if _is_complete(folder):
            return folder
    _download(cached)
    return cached


def _file(folder: Path, name: str) -> Path:
    """The file `name` in `folder`, gzipped unless only the plain one exists."""
    plain, gzipped = folder / name, folder / f"{name}.gz"
    return plain if plain.exists() and not gzipped.exists() else gzipped


def _is_complete(folder: Path) -> bool:
    return all(_file(folder, name).exists() for names in FILES.values() for name in names)


def _download(folder: Path) -> None:
    """Let torchvision download and verify the files, then move each into `folder` at once."""
    from torchvision.datasets import FashionMNIST  # takes seconds to import, which only those pay who download

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            FashionMNIST(temporary, download=True)
            for file in Path(temporary, "FashionMNIST", "raw").glob("*.gz"):
                os.replace(file, folder / file.name)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"cannot download Fashion-MNIST into '{folder}': {' '.join(str(error).split())} "
            "Install Debian's package dataset-fashion-mnist, or give its folder: fashion-mnist:DIR."
        ) from error


def _read_split(folder: Path, split: str) -> tuple[Tensor, Tensor]:
    """Pixels, uint8 [images, 1, 28, 28], and labels, int64 [images]."""
    images_file, labels_file = (_file(folder, name) for name in FILES[split])
    pixels, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
    if pixels.shape[1:] != (SIDE, SIDE) or len(pixels) == 0:
        raise DataError(f"expected images of {SIDE} x {SIDE} in '{images_file}', got {list(pixels.shape)}.")
    if len(labels) != len(pixels) or int(labels.max()) >= len(CLASSES):
        raise DataError(
            f"expected a label from 0 to {len(CLASSES) - 1} for each of {len(pixels):,} images in '{labels_file}', "
            f"got {len(labels):,} up to {int(labels.max()) if len(labels) else 'none'}."
        )
    return pixels[:, None], labels.to(torch.int64)
