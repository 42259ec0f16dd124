# SPDX-License-Identifier: MIT
"""The IDX format."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest
import torch

from bitwright.data.idx import read_idx
from bitwright.errors import DataError


def _idx(shape: tuple[int, ...], code: int = 8) -> bytes:
    header = bytes([0, 0, code, len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + bytes(number % 256 for number in range(math.prod(shape)))


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_bytes_come_back_in_their_shape(tmp_path: Path, compress: type[bytes]) -> None:
    """A file gives its numbers, last dimension fastest, gzipped or not."""
    path = tmp_path / "file"
    path.write_bytes(compress(_idx((3, 10, 20))))
    assert torch.equal(read_idx(path, 3), (torch.arange(600) % 256).to(torch.uint8).reshape(3, 10, 20))


def test_nothing_is_a_valid_content(tmp_path: Path) -> None:
    """A file of no images is read as such."""
    path = tmp_path / "file"
    path.write_bytes(_idx((0,)))
    assert read_idx(path, 1).shape == (0,)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "another kind"),
        (b"\x00\x00\x08\x03\x00", "another kind"),
        (_idx((2, 3)), "another kind"),
        (_idx((2, 3, 4), code=9), "another kind"),
        (_idx((2, 3, 4))[:-1], "expected 24 bytes after the header of .* got 23"),
        (_idx((2, 3, 4)) + b"\x00", "expected 24 bytes after the header of .* got 25"),
        (bytes([0, 0, 8, 3]) + b"\xff" * 12, "after the header"),
        (gzip.compress(_idx((2, 3, 4)), mtime=0)[:-9], "ended before|cannot read"),
        (gzip.compress(_idx((2, 3, 4)), mtime=0)[:-8] + b"\x00" * 8, "CRC check failed"),
        (b"\x1f\x8b\x08\x00" + b"\xff" * 40, "cannot read"),
    ],
)
def test_damaged_files_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    """A file that is not whole, or no IDX file of bytes, is refused by name."""
    path = tmp_path / "file"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, 3)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A file that is not there is a DataError too."""
    with pytest.raises(DataError, match="absent"):
        read_idx(tmp_path / "absent", 3)
