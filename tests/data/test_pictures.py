# SPDX-License-Identifier: MIT
"""Picture files of every depth give the same pixels, and hidden files are none."""

from __future__ import annotations

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import IMG_EXTENSIONS

import bitwright
from bitwright.data import load_data
from bitwright.data.pictures import EXTENSIONS, FORMATS, open_picture, rgb_picture
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


@pytest.mark.parametrize("name", ["0.jpg", "0.png", "0.tiff"])
def test_no_picture_is_handed_to_a_program(
    photographs: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostScript behind a picture's name is refused, before Ghostscript runs what it says."""
    for program in ("gs", "gswin32c", "gswin64c"):
        path = tmp_path / "bin" / program
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    (photographs / "val" / "person" / "0.jpg").unlink()
    (photographs / "val" / "person" / name).write_bytes(script)
    data = load_data(f"imagefolder:{photographs}", image_size=8)
    with pytest.raises(DataError, match=r"cannot read the image '.*': it holds no picture in JPEG, .* or GIF"):
        data.test.read(range(len(data.test)))
    assert not (tmp_path / "ran").exists()


def test_pictures_are_opened_in_one_place() -> None:
    """Where their formats are said: nothing else may ask Pillow to guess what a file holds."""
    source = Path(bitwright.__file__).parent
    opened = [path.name for path in source.rglob("*.py") if "Image.open(" in path.read_text()]
    assert opened == ["pictures.py"]


@pytest.mark.parametrize("kind", FORMATS)
def test_every_format_is_read(kind: str) -> None:
    """Each that may be opened is: in the bytes of a data set, where no name says what they are."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 255, 255)).save(stream, kind)
    assert np.asarray(rgb_picture(stream)).min() == 255


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
