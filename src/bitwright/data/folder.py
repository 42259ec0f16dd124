# SPDX-License-Identifier: MIT
"""`imagefolder:DIR`: pictures in folders named after their classes, as ImageNet's, with torchvision's preprocessing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from PIL import Image
from torch import Tensor

from bitwright.data.decoded import TORCHVISION, DecodedImages, pictures_data, preprocessing_of
from bitwright.data.image_data import ImageData
from bitwright.data.pictures import EXTENSIONS, list_classes, list_pictures, open_picture
from bitwright.data.preprocessing import Preprocessing
from bitwright.data.registry import source
from bitwright.data.request import Request
from bitwright.data.splits import named_splits
from bitwright.errors import DataError


@final
class FolderImages(DecodedImages):
    """Picture files.

    Args:
        paths: Their paths.
        labels: int64 [images].
        how: How they are made.
    """

    def __init__(self, paths: Sequence[str], labels: Tensor, how: Preprocessing = TORCHVISION) -> None:
        super().__init__(labels, how)
        self.paths = list(paths)

    def picture(self, index: int) -> Image.Image:
        return open_picture(self.paths[index])

    def place(self, index: int) -> str:
        return self.paths[index]


@source("imagefolder")
def load_folder(request: Request) -> ImageData:
    """Load DIR/train/CLASS/ and DIR/val/CLASS/, or other splits by their names.

    Raises:
        DataError: If a folder is missing, has fewer than two classes or no images, or the two splits have different classes.
    """
    if request.folder is None:
        raise DataError("imagefolder needs a folder with train/ and val/: imagefolder:DIR.")
    how = preprocessing_of(request, "imagefolder")
    trained, held_out = _splits(request.folder)
    classes, test_classes = _classes(trained), _classes(held_out)
    if classes != test_classes:
        differing = sorted(set(classes) ^ set(test_classes))
        raise DataError(
            f"expected the same classes in '{trained}' and '{held_out}', "
            f"got {len(classes)} and {len(test_classes)}: '{differing[0]}' is only in one."
        )
    train, test = (_scan(split, classes, how) for split in (trained, held_out))
    return pictures_data(
        f"imagefolder:{request.folder}", classes, train, test, how, f"images in {trained} and {held_out}"
    )


def _splits(named: str) -> tuple[Path, Path]:
    """The folders of training and held-out images: DIR's usual ones, or those of DIR:TRAIN,TEST.

    Raises:
        DataError: If one is missing; says how to name it.
    """
    folder, _, names = named.rpartition(":")
    given = names if folder and names.count(",") == 1 and not Path(named).is_dir() else ""
    root = Path(folder if given else named)
    if not root.is_dir():
        raise DataError(f"no folder '{root}': imagefolder:DIR reads DIR/train/CLASS/ and DIR/val/CLASS/.")
    there = {entry.name: entry for entry in sorted(root.iterdir()) if entry.is_dir() and entry.name[0] != "."}
    train, test = named_splits(there, given, f"imagefolder:{root}")
    return there[train], there[test]


def _classes(folder: Path) -> tuple[str, ...]:
    found = list_classes(folder)
    if not found:
        raise DataError(f"no class folders in '{folder}': expected '{folder}/CLASS/IMAGE.jpg'.")
    if len(found) == 1:
        raise DataError(f"only one class folder, '{found[0]}', in '{folder}': expected at least two to tell apart.")
    return found


def _scan(folder: Path, classes: tuple[str, ...], how: Preprocessing) -> FolderImages:
    """List the pictures of a split."""
    samples = list_pictures(folder, {name: label for label, name in enumerate(classes)})
    empty = sorted(set(classes) - {classes[label] for _, label in samples})
    if empty:
        raise DataError(f"no images in '{folder / empty[0]}': expected files ending in {', '.join(EXTENSIONS)}.")
    return FolderImages([path for path, _ in samples], torch.tensor([label for _, label in samples]), how)
