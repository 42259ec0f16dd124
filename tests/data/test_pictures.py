# SPDX-License-Identifier: MIT
"""Picture files of every depth give the same pixels, and hidden files are none."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

from bitwright.data import load_data
from bitwright.data.pictures import EXTENSIONS, open_picture
from bitwright.errors import DataError


def gray(side: int = 24) -> np.ndarray:
    """A ramp from 0 to 255, uint8."""
    return np.linspace(0, 255, side * side).reshape(side, side).round().astype(np.uint8)


DEPTHS = {
    "8-bit.png": lambda ramp: ramp,
    "16-bit.png": lambda ramp: ramp.astype(np.uint16) * 257,
    "16-bit.tiff": lambda ramp: ramp.astype(np.uint16) * 257,
    "16-bit.pgm": lambda ramp: ramp.astype(np.uint16) * 257,
    "float.tiff": lambda ramp: ramp.astype(np.float32) / 255,
}


def test_the_same_files_count_as_for_torchvision() -> None:
    """They are listed, so that nothing waits for torchvision that reads no folder."""
    assert EXTENSIONS == IMG_EXTENSIONS


@pytest.mark.parametrize("name", list(DEPTHS))
def test_every_depth_is_scaled_by_its_range(tmp_path: Path, name: str) -> None:
    """Black stays black, white stays white, and what lies between is the same in 8 bits, 16 bits and floats."""
    Image.fromarray(DEPTHS[name](gray())).save(tmp_path / name)
    read = open_picture(str(tmp_path / name))
    assert read.mode == "RGB"
    assert np.array_equal(np.asarray(read), gray()[:, :, None].repeat(3, 2))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_eight_bits_are_pillows(tmp_path: Path, mode: str) -> None:
    """Pictures of 8 bits and fewer are read as torchvision reads them."""
    Image.fromarray(gray()).convert(mode).save(tmp_path / "picture.png")
    expected = Image.open(tmp_path / "picture.png").convert("RGB")
    assert np.array_equal(np.asarray(open_picture(str(tmp_path / "picture.png"))), np.asarray(expected))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((8, 8), 128.0, np.float32), "expected pixels from 0 to 1, got 128 to 128"),
        (np.full((8, 8), -0.5, np.float32), "expected pixels from 0 to 1, got -0.5 to -0.5"),
        (np.full((8, 8), np.nan, np.float32), "expected pixels from 0 to 1, got nan"),
        (np.full((8, 8), 70000, np.int32), "32-bit integers have no range"),
    ],
)
def test_pixels_without_a_range_are_refused(photographs: Path, pixels: np.ndarray, message: str) -> None:
    """Where nothing says what white is, the picture is refused by name, not guessed."""
    Image.fromarray(pixels).save(photographs / "val" / "person" / "0.tiff")
    data = load_data(f"imagefolder:{photographs}", image_size=8)
    with pytest.raises(DataError, match=rf"cannot read the image '.*val/person/0\.tiff': {message}"):
        data.test.read(range(len(data.test)))


def test_hidden_files_and_folders_are_skipped(photographs: Path) -> None:
    """What Jupyter and macOS leave behind adds neither classes nor pictures; the order stays torchvision's."""
    before = load_data(f"imagefolder:{photographs}", image_size=8)
    for split in ("train", "val"):
        (photographs / split / ".ipynb_checkpoints").mkdir()
        copies = photographs / split / "person" / ".ipynb_checkpoints"
        copies.mkdir()
        shutil.copy(photographs / split / "person" / "0.jpg", copies / "0-checkpoint.jpg")
        (photographs / split / "person" / "._0.jpg").write_bytes(b"\x00\x05\x16\x07 of macOS")
        (photographs / split / "person" / ".hidden.jpg").write_bytes(b"")
    after = load_data(f"imagefolder:{photographs}", image_size=8)
    assert after.classes == before.classes == ("flower", "person")
    for split in ("train", "test"):
        assert after.split(split).paths == before.split(split).paths  # type: ignore[attr-defined]


def test_the_orientation_in_exif_is_left_alone(photographs: Path) -> None:
    """As torchvision: a picture that EXIF calls rotated is read as it is stored."""
    picture = Image.open(photographs / "val" / "person" / "0.jpg")
    stored = load_data(f"imagefolder:{photographs}", image_size=16).test.read([2])[0]
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    picture.save(photographs / "val" / "person" / "0.png", exif=exif)
    (photographs / "val" / "person" / "0.jpg").unlink()
    assert torch.equal(load_data(f"imagefolder:{photographs}", image_size=16).test.read([2])[0], stored)
