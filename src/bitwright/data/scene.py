# SPDX-License-Identifier: MIT
"""Scenes of several digits on textured ground, with what stands where: drawn from a seed, in integers, alike on all machines."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from bitwright.data.sampling import derive_seed

Pixels = npt.NDArray[np.uint8]
Box = tuple[int, int, int, int]
"""Left, top, right and bottom in pixels, the latter two exclusive."""

MOST_DIGITS = 5
UNCOUNTED = 255
"""In a mask: the edges of strokes, which are neither ink nor ground."""

_FEWEST_DIGITS = 2
_FAINT, _INK = 64, 128
"""From where on a pixel of a digit is an edge, and ink."""
_GROUND, _GRAIN = 96, 24
"""How bright the ground is at most, and how much its grain adds."""
_FAINTEST = 160
"""The brightness of a digit's ink, at least."""
_TRIES = 20
_NUMBERS = 2 + MOST_DIGITS * (3 + 2 * _TRIES)
"""At most, of one scene: all at once, since each call costs more than the number."""


@dataclass(frozen=True)
class Scene:
    """One image and what is on it.

    Attributes:
        pixels: uint8 [size, size].
        mask: uint8 [size, size], 0 for the ground, 1 + d for the digit d, 255 for what does not count.
        digits: Each digit on it, with the box around its strokes.
    """

    pixels: Pixels
    mask: Pixels
    digits: tuple[tuple[int, Box], ...]


class _Draw:
    """Whole numbers from a seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._numbers = iter(torch.randint(2**31, (_NUMBERS,), generator=self._generator).tolist())

    def one(self, low: int, high: int) -> int:
        """A number from `low` to `high`, both included."""
        return low + int(next(self._numbers)) % (high + 1 - low)

    def many(self, below: int, size: int) -> Pixels:
        """A square of numbers below a byte."""
        drawn = torch.randint(below, (size, size), generator=self._generator, dtype=torch.uint8)
        made: Pixels = drawn.numpy()
        return made


def draw_scene(pixels: Tensor, labels: Tensor, leading: int, size: int, *seeds: int) -> Scene:
    """Draw two to five digits, a quarter to half as high as the scene, which may overlap a little.

    Args:
        pixels: uint8 [digits, 1, height, width], of which digits are drawn.
        labels: Their classes.
        leading: A digit that is on it in any case.
        size: Height and width of the scene in pixels.
        seeds: What all that is drawn depends on.
    """
    draw = _Draw(derive_seed(*seeds))
    canvas, mask = _ground(draw, size), np.zeros((size, size), dtype=np.uint8)
    found: list[tuple[int, Box]] = []
    for number in range(draw.one(_FEWEST_DIGITS, MOST_DIGITS)):
        chosen = leading if number == 0 else draw.one(0, len(pixels) - 1)
        side = draw.one(size // 4, size // 2)
        tile = np.asarray(Image.fromarray(pixels[chosen, 0].numpy()).resize((side, side), Image.Resampling.BILINEAR))
        tile = _trimmed(tile)
        height, width = tile.shape
        for _ in range(_TRIES):
            left, top = draw.one(0, size - width), draw.one(0, size - height)
            box = (left, top, left + width, top + height)
            if all(_apart(box, other) for _, other in found):
                _print(canvas, mask, tile, box, int(labels[chosen]), draw.one(_FAINTEST, 255))
                found.append((int(labels[chosen]), box))
                break
    return Scene(canvas, mask, tuple(found))


def _ground(draw: _Draw, size: int) -> Pixels:
    """Soft patches, and a grain of single pixels."""
    patches = Image.fromarray(draw.many(_GROUND, draw.one(3, 8))).resize((size, size), Image.Resampling.BICUBIC)
    made: Pixels = np.minimum(np.asarray(patches), _GROUND) + draw.many(_GRAIN, size)
    return made


def _trimmed(tile: Pixels) -> Pixels:
    """Without the rows and columns around the strokes."""
    rows, columns = (np.flatnonzero((tile >= _FAINT).any(axis)) for axis in (1, 0))
    return tile[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _apart(box: Box, other: Box) -> bool:
    """Whether a fifth of the smaller one is hidden at most."""
    width = min(box[2], other[2]) - max(box[0], other[0])
    height = min(box[3], other[3]) - max(box[1], other[1])
    smaller = min((right - left) * (bottom - top) for left, top, right, bottom in (box, other))
    return 5 * max(width, 0) * max(height, 0) <= smaller


def _print(canvas: Pixels, mask: Pixels, tile: Pixels, box: Box, digit: int, brightness: int) -> None:
    """Put a digit on the ground, its strokes as dense as the tile says."""
    left, top, right, bottom = box
    area = np.s_[top:bottom, left:right]
    ink = tile.astype(np.int32)
    canvas[area] = (canvas[area] * (255 - ink) + brightness * ink + 127) // 255
    mask[area][tile >= _FAINT] = UNCOUNTED
    mask[area][tile >= _INK] = 1 + digit
