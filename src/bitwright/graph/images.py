# SPDX-License-Identifier: MIT
"""What a network expects of its images: their shape, their type, and that they are numbers."""

from __future__ import annotations

import torch
from torch import Tensor

from bitwright.errors import DataError


def float_images(images: Tensor, shape: tuple[int, ...], reader: str) -> Tensor:
    """Images as float32, if they are ones that `reader` can read.

    Args:
        images: Shape (batch, channels, height, width), of any floating-point type: float16 and bfloat16 become float32 without
            a loss, and float64 is rounded.
        shape: (channels, height, width) that is expected.
        reader: Who reads them, for the message.

    Raises:
        DataError: If the shape is another, the type holds no fractions, or a value is not finite.
    """
    check_images(images, shape, reader)
    images = images.to(torch.float32)
    # A sum of finite float32 numbers can overflow, but one that is finite proves them all finite in one pass.
    if not bool(images.sum().isfinite()) and not bool(images.isfinite().all()):
        bad = int((~images.isfinite().flatten(1).all(1)).nonzero()[0, 0])
        raise DataError(f"{reader} reads finite images, got NaN or infinity in image {bad} of the batch.")
    return images


def check_images(images: Tensor, shape: tuple[int, ...], reader: str) -> None:
    """Refuse images that `reader` cannot read; see `float_images`.

    Raises:
        DataError: If the shape is another, or the type holds no fractions.
    """
    if images.dim() != 1 + len(shape) or tuple(images.shape[1:]) != tuple(shape):
        expected = " x ".join(map(str, ("batch", *shape)))
        got = " x ".join(map(str, images.shape))
        raise DataError(
            f"{reader} reads images of {expected}, got {got}: load the data at that size, with those channels."
        )
    if not images.is_floating_point():
        raise DataError(f"{reader} reads normalised images in floating point, got {images.dtype}.")
