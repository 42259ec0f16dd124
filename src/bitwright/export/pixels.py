# SPDX-License-Identifier: MIT
"""From 8-bit pixels to the integers of the first tensor: normalisation and quantization as one function of 256 values.

A camera gives pixels p from 0 to 255. Training saw `(p / 255 - mean) / std`, each step in float32, and the model's first
operation rounds that divided by its scale. Per channel this is a table of 256 integers. Engines are fast with `gain * p +
offset` in float32, rounded: where a gain and an offset reproduce the table with every value farther from a rounding threshold
than any float32 evaluation can err, fused or not, they stand for it; otherwise the table itself does.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.errors import ExportError, FileFormatError
from bitwright.integer.execution.reference import execute_op
from bitwright.integer.ops import Quantize, ReciprocalQuantize

LEVELS = 256
NORMALISED = "float32, normalised as in training"
_PIXELS = "uint8 pixels; normalised inside by mean {} and std {}"


@dataclass(frozen=True)
class Pixels:
    """How 8-bit pixels were normalised in training: `(pixel / 255 - mean) / std`, per channel.

    Attributes:
        mean: The mean of each channel.
        std: The standard deviation of each channel.
    """

    mean: Sequence[float]
    std: Sequence[float]

    def normalise(self, pixels: Tensor) -> Tensor:
        """Float32 images from uint8 [batch, channels, height, width], step by step as in training.

        Raises:
            ExportError: If the channels do not match.
        """
        mean, std = self._of_channels(pixels.shape[1])
        return pixels.to(torch.float32).div(255).sub(mean).div(std)

    def nearest(self, images: Tensor) -> Tensor:
        """The uint8 pixels nearest to normalised images, both [batch, channels, height, width].

        Raises:
            ExportError: If the channels do not match.
        """
        mean, std = self._of_channels(images.shape[1])
        return images.mul(std).add(mean).mul(255).round().clamp(0, 255).to(torch.uint8)

    def _of_channels(self, channels: int) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, each [channels, 1, 1]."""
        mean, std = (torch.tensor(values, dtype=torch.float32).reshape(-1, 1, 1) for values in (self.mean, self.std))
        if not channels == len(mean) == len(std):
            raise ExportError(
                f"expected a mean and a standard deviation for each of {channels} channels, got {len(mean)} and {len(std)}."
            )
        return mean, std

    def table(self, op: Quantize | ReciprocalQuantize) -> npt.NDArray[np.int32]:
        """The integer of every pixel value, int32 [channels, 256]."""
        levels = torch.arange(LEVELS, dtype=torch.uint8).reshape(1, 1, 1, LEVELS).expand(1, op.shape[0], 1, LEVELS)
        return execute_op(op, [self.normalise(levels)], [])[0, :, 0].numpy()


@dataclass(frozen=True)
class Affine:
    """`clamp(rint(gain * value + offset))` in float32: numbers, or float32 [channels] each."""

    gain: Any
    offset: Any


def quotient_rises(op: Quantize | ReciprocalQuantize) -> npt.NDArray[np.float32]:
    """The smallest float32 image value that is quantized to each of `low + 1` to `high`, for engines that cannot divide.

    The quantization `clamp(round_half_even(image / scale))` in float32 does not decrease, nor does that by the reciprocal, so the
    number of these values at or below an image's, plus `low`, is its integer.

    Returns:
        float32 [high - low], increasing.
    """
    scale = np.float32(op.scale)
    level = np.arange(op.low + 1, op.high + 1)
    reciprocal = np.float32(1) / scale

    def integers(images: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        return np.asarray(np.rint(images * reciprocal if isinstance(op, ReciprocalQuantize) else images / scale))

    value = ((level - 0.5) * float(scale)).astype(np.float32)  # not more than a few float32 numbers away
    while (lower := integers(value) >= level).any():
        value = np.where(lower, np.nextafter(value, np.float32(-np.inf)), value)
    while (higher := integers(value) < level).any():
        value = np.where(higher, np.nextafter(value, np.float32(np.inf)), value)
    return value


def images_in_words(pixels: Pixels | None) -> str:
    """What a file takes, as it states it."""
    return NORMALISED if pixels is None else _PIXELS.format(list(pixels.mean), list(pixels.std))


def images_from_words(words: str) -> Pixels | None:
    """The inverse.

    >>> images_from_words(images_in_words(Pixels([0.5], [0.25])))
    Pixels(mean=[0.5], std=[0.25])

    Raises:
        FileFormatError: If the words are no such statement.
    """
    found = re.fullmatch(_PIXELS.format("(.*)", "(.*)"), words)
    if found is not None:
        return Pixels(json.loads(found[1]), json.loads(found[2]))
    if words != NORMALISED:
        raise FileFormatError(f"expected '{NORMALISED}' or pixels with mean and std, got '{words}'.")
    return None


def quotient_below(op: Quantize | ReciprocalQuantize) -> tuple[Affine, npt.NDArray[np.float32]]:
    """The quantization of images for engines that turn divisions into products, in two steps.

    `q = clamp(round(gain * image + offset))`, with the scale's inverse and -0.25, is the wanted integer or one less; it is
    one less where the image has reached the rise behind q. With y = image / scale, the wanted integer before the clamp lies
    within 0.5 + e of y, and q within 0.5 + e of y - 0.25, where e bounds what float32 loses before it is rounded. So their
    difference is above -0.75 - 2 e and below 1.25 + 2 e: 0 or 1 while e is below 1/8. A quotient or a product with a rounded
    inverse, and the sum, rounded or fused, are off by less than 2**-21 |y| + 2**-25, which is below 1/8 for all |y| up to
    2**17; beyond, all are clamped. A clamp keeps a difference of 0 or 1.

    Returns:
        Gain and offset; and the rise behind each integer from `low` to `high`, float32 [high - low + 1], the last one infinite.

    Raises:
        ExportError: If products with the inverse of the scale can leave the normal float32 numbers.
    """
    if not 2.0**-100 <= op.scale <= 2.0**100:
        raise ExportError(f"'{op.name}': expected a scale of images from 2**-100 to 2**100, got {op.scale:.3g}.")
    gain = np.float32(1) / np.float32(op.scale)
    return Affine(gain, np.float32(-0.25)), np.append(quotient_rises(op), np.float32(np.inf))


def affine(table: npt.NDArray[np.int32], low: int, high: int) -> Affine | None:
    """Gain and offset that reproduce a table on every float32 engine, or None where there are none nearby.

    Args:
        table: int32 [channels, 256], not decreasing along the pixels.
        low: Smallest integer: smaller results are clamped to it.
        high: Largest integer, likewise.
    """
    found = [_channel(row.astype(np.float64), low, high) for row in table]
    pairs = [pair for pair in found if pair is not None]
    if len(pairs) < len(found):
        return None
    return Affine(*(np.array(values, dtype=np.float32) for values in zip(*pairs, strict=True)))


def _channel(row: npt.NDArray[np.float64], low: int, high: int) -> tuple[np.float32, np.float32] | None:
    """The gain that leaves the offset most room, and the offset in the middle of it, if that room is wide enough."""
    levels = np.arange(LEVELS, dtype=np.float64)
    # A result at a limit may lie anywhere beyond it.
    least = np.where(row == low, -np.inf, row - 0.5)
    most = np.where(row == high, np.inf, row + 0.5)
    inside = np.flatnonzero((row > low) & (row < high))
    if inside.size < 2:
        return None

    def room(gain: float) -> tuple[float, float]:
        """The least and the greatest offset that reproduce the table."""
        return float((least - gain * levels).max()), float((most - gain * levels).min())

    # The width of that range is concave in the gain, so a ternary search around the mean slope finds its maximum.
    slope = (row[inside[-1]] - row[inside[0]]) / (inside[-1] - inside[0])
    left, right = slope - 2 / inside.size, slope + 2 / inside.size
    for _ in range(80):
        first, second = left + (right - left) / 3, right - (right - left) / 3
        if np.subtract(*room(first)) > np.subtract(*room(second)):
            left = first
        else:
            right = second
    gain = float(np.float32((left + right) / 2))
    offset = float(np.float32(np.mean(room(gain))))
    exact = gain * levels + offset
    # The product and the sum are each rounded by at most 2**-24 of their size, or only once; 2**-22 leaves room to spare.
    error = 2.0**-22 * (abs(gain) * LEVELS + abs(offset))
    if (exact - least > error).all() and (most - exact > error).all():
        return np.float32(gain), np.float32(offset)
    return None
