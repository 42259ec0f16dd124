# SPDX-License-Identifier: MIT
"""The IDX format of MNIST and its kin: a typed header, then the numbers; often gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bitwright.errors import DataError

GZIP_MAGIC = b"\x1f\x8b"
UINT8_CODE = 0x08


def read_idx(path: Path, dimensions: int) -> Tensor:
    """Read an IDX file of bytes, gzipped or not.

    Args:
        path: The file.
        dimensions: How many the array must have: 3 for images, 1 for labels.

    Returns:
        uint8, of the shape that the header states.

    Raises:
        DataError: If the file is missing, damaged, of another kind, or shorter or longer than its header states.

    Source:
        The section "File formats" of the MNIST page: two zero bytes, a type code, the number of dimensions, each
        dimension as a big-endian int32, then the numbers.
    """
    try:
        content = path.read_bytes()
        if content.startswith(GZIP_MAGIC):
            content = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot read '{path}': {error}. Fetch the file again.") from error
    start = 4 + 4 * dimensions
    if len(content) < start or content[:4] != bytes([0, 0, UINT8_CODE, dimensions]):
        raise DataError(
            f"expected an IDX file of bytes in {dimensions} dimensions, got another kind of file: '{path}'."
        )
    shape = tuple(np.frombuffer(content, dtype=">i4", count=dimensions, offset=4).tolist())
    expected, got = math.prod(shape), len(content) - start
    if min(shape) < 0 or expected != got:
        raise DataError(f"expected {expected:,} bytes after the header of '{path}', got {got:,}. Fetch the file again.")
    return torch.from_numpy(np.frombuffer(content, dtype=np.uint8, offset=start).reshape(shape).copy())
