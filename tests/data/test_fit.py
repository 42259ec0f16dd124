# SPDX-License-Identifier: MIT
"""Bringing images to a size."""

from __future__ import annotations

import pytest
import torch
from torchvision.transforms.v2.functional import resize

from bitwright.data import ImageData, InMemoryImages
from bitwright.data.fit import fit


@pytest.fixture
def pixels(digits: ImageData) -> torch.Tensor:
    """Some digits, uint8 [8, 1, 28, 28]."""
    assert isinstance(digits.test, InMemoryImages)
    return digits.test.pixels[:8]


@pytest.mark.parametrize("size", range(28, 37))
def test_borders_keep_every_pixel(pixels: torch.Tensor, size: int) -> None:
    """Up to 4 pixels a side are black borders around the unchanged image, which stays in the middle."""
    fitted = fit(pixels, size)
    border = (size - 28) // 2
    assert fitted.shape == (8, 1, size, size)
    assert fitted.dtype == torch.uint8
    assert torch.equal(fitted[:, :, border : border + 28, border : border + 28], pixels)
    assert fitted.sum() == pixels.sum()


@pytest.mark.parametrize("size", [14, 27, 37, 64, 224])
def test_other_sizes_are_torchvisions_resize(pixels: torch.Tensor, size: int) -> None:
    """Beyond that, images are resized as torchvision does, and rounded once."""
    fitted = fit(pixels, size)
    assert fitted.dtype == torch.uint8
    assert torch.equal(fitted.to(torch.float32), resize(pixels.to(torch.float32), [size, size]).round())
