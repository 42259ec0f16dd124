# SPDX-License-Identifier: MIT
"""Real images for the tests of the data sets."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pytest
from PIL import Image

from bitwright.data import ImageData, load

SAMPLES = Path(mpl.get_data_path()) / "sample_data"


@pytest.fixture(scope="session")
def digits() -> ImageData:
    """The embedded digits."""
    return load("mnist-5k")


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """An image folder of two classes, cut from pictures that matplotlib ships: 3 + 3 to train, 2 + 2 to test."""
    sources = {"flower": "Minduka_Present_Blue_Pack.png", "person": "grace_hopper.jpg"}
    for name, file in sources.items():
        picture = Image.open(SAMPLES / file).convert("RGB")
        for split, count in (("train", 3), ("val", 2)):
            folder = tmp_path / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                width, height = picture.width - 10 * number, picture.height - 20 * number
                picture.crop((0, 0, width, height)).save(folder / f"{number}.jpg", quality=90)
    return tmp_path
