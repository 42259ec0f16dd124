# SPDX-License-Identifier: MIT
"""Picture files: which of a folder count, and their pixels as 8 bits a channel whatever the file holds."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, UnidentifiedImageError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
"""Those of torchvision's ImageFolder."""

FORMATS = ("JPEG", "PNG", "PPM", "BMP", "TIFF", "WEBP", "GIF")
"""What a file may hold, whatever its name: Pillow's names of what those extensions stand for; and GIF, in data sets' bytes.

Pillow looks at the content, not at the name, and would hand others to programs: PostScript to Ghostscript, which runs it.
"""

_SIXTEEN_BITS = 2**16 - 1
# Pillow keeps 16-bit pixels of these formats in its 32-bit mode "I"; those of others have 32 bits indeed.
_SIXTEEN_BIT_FORMATS = ("PNG", "PPM")


def list_pictures(folder: Path, labels: Mapping[str, int]) -> list[tuple[str, int]]:
    """Path and label of each picture below `folder`/CLASS, in torchvision's order, without hidden files and folders.

    What begins with a dot is no picture of the data set: `.ipynb_checkpoints` holds copies, and `._1.jpg` is what macOS writes
    beside `1.jpg`.
    """
    from torchvision.datasets.folder import (
        make_dataset,
    )  # takes seconds to import, which only those pay who have a folder

    def counts(path: str) -> bool:
        parts = Path(path).relative_to(folder).parts
        return path.lower().endswith(EXTENSIONS) and not any(part.startswith(".") for part in parts)

    found: list[tuple[str, int]] = make_dataset(str(folder), dict(labels), is_valid_file=counts, allow_empty=True)
    return found


def list_classes(folder: Path) -> tuple[str, ...]:
    """The folders in a split that are not hidden, sorted: the labels of torchvision's ImageFolder."""
    return tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith(".")))


def open_picture(path: str) -> Image.Image:
    """A picture in a file; see `rgb_picture`."""
    with open(path, "rb") as file:  # Pillow would leave a file open whose decoding fails
        return rgb_picture(file)


def rgb_picture(file: IO[bytes]) -> Image.Image:
    """A picture in RGB, 8 bits a channel; more bits are scaled by the range of their type, 0 to 65,535 or 0.0 to 1.0.

    Pillow's own conversion clips instead: 16-bit pictures become white, and float ones black. The orientation in the EXIF data
    is left alone, as torchvision leaves it.

    Raises:
        ValueError: If the pixels lie outside that range, or their type has none: there is nothing to scale by. Or if the file
            holds none of `FORMATS`.
        OSError: If the file cannot be read, among others of Pillow.
    """
    try:
        picture = Image.open(file, formats=FORMATS)
    except UnidentifiedImageError as error:
        raise ValueError(f"it holds no picture in {', '.join(FORMATS[:-1])} or {FORMATS[-1]}") from error
    if picture.mode.startswith("I;16") or (picture.mode == "I" and picture.format in _SIXTEEN_BIT_FORMATS):
        return _scaled(picture, _SIXTEEN_BITS)
    if picture.mode == "I":
        raise ValueError("32-bit integers have no range that pictures agree on: save 8 or 16 bits")
    if picture.mode == "F":
        return _scaled(picture, 1.0)
    return picture.convert("RGB")


def _scaled(picture: Image.Image, largest: float) -> Image.Image:
    pixels = np.asarray(picture).astype(np.float64)
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= largest):
        raise ValueError(f"expected pixels from 0 to {largest:g}, got {low:g} to {high:g}: scale them, or save 8 bits")
    return Image.fromarray(np.rint(pixels * (255 / largest)).astype(np.uint8)).convert("RGB")
