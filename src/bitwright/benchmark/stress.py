# SPDX-License-Identifier: MIT
"""Images that look for differences: flat, checkered, at the limits of the format, and next to its rounding thresholds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import cycle

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.export.pixels import Pixels
from bitwright.integer.model import IntegerModel

Draw = Callable[[np.random.Generator, tuple[int, ...]], npt.NDArray[np.float64]]
"""From a shape to levels: 0 is the smallest value of an image, 1 the largest."""


def _checkerboard(generator: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return np.asarray(np.indices(shape).sum(axis=0) % 2, dtype=np.float64)


def _one_bright_value(generator: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    made = np.zeros(shape)
    made.flat[generator.integers(made.size)] = 1
    return made


def _noise_at_the_limits(generator: np.random.Generator, shape: tuple[int, ...]) -> npt.NDArray[np.float64]:
    return generator.integers(0, 2, shape) + generator.uniform(-0.02, 0.02, shape)


DRAWN: dict[str, Draw] = {
    "all at the least": lambda generator, shape: np.zeros(shape),
    "all at the most": lambda generator, shape: np.ones(shape),
    "checkerboard": _checkerboard,
    "noise at the limits": _noise_at_the_limits,
    "noise": lambda generator, shape: generator.uniform(0, 1, shape),
    "noise beyond the limits": lambda generator, shape: generator.uniform(-2, 3, shape),
    "one bright value": _one_bright_value,
    "dark noise": lambda generator, shape: generator.uniform(0, 0.03, shape),
}
"""By name; images of these kinds follow each other."""


def stress_images(model: IntegerModel, count: int, pixels: Pixels | None = None, seed: int = 0) -> Tensor:
    """Images of the kinds of `DRAWN`, in turn.

    Without `pixels`, the smallest and the largest value are those of the model's input format, every second noise lies exactly
    between two integers of it, and "beyond" leaves it. With `pixels`, they are 0 and 255.

    Args:
        model: What they are for.
        count: How many.
        pixels: How pixels are normalised, if the images are to be pixels.
        seed: The seed of the noise.

    Returns:
        [count, channels, height, width]: float32 images as the model takes them, or uint8 pixels.
    """
    generator = np.random.default_rng(seed)
    kinds: Iterator[Draw] = cycle(DRAWN.values())
    levels = np.array([next(kinds)(generator, model.input_shape) for _ in range(count)]).reshape(-1, *model.input_shape)
    if pixels is not None:
        return torch.from_numpy(np.rint(np.clip(levels, 0, 1) * 255).astype(np.uint8))
    params = model.formats[model.ops[0].name]
    integers = params.quant_min + levels * (params.quant_max - params.quant_min)
    between = np.floor(integers) + 0.5
    odd = np.arange(count).reshape(-1, 1, 1, 1) // len(DRAWN) % 2 == 1
    return torch.from_numpy((np.where(odd, between, integers) * params.scale).astype(np.float32))
