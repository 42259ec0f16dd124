# SPDX-License-Identifier: MIT
"""The images that the front door works on: to observe, to measure on, and, where a data set has them, to train with."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sized
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bitwright.data import ImageData
from bitwright.data.drawn import choose, draw_images
from bitwright.data.given import each_images, each_labelled, has_labels
from bitwright.errors import DataError
from bitwright.graph import FloatModel, Graph
from bitwright.graph.digest import digest

BATCH = 100


@dataclass(frozen=True)
class AutoImages:
    """What is observed, and what is measured on.

    Attributes:
        name: The name of the data, for files and tables.
        given: Float32 images [count, channels, height, width] to observe, none of which is measured on.
        held_out: Batches of (images, labels), the same in every pass; without labels, before `judged_by`.
        training: The data set, if there is one to train with.
        labelled: Whether the held-out images have labels of their own.
    """

    name: str
    given: Tensor
    held_out: Iterable[Any]
    training: ImageData | None = None
    labelled: bool = True

    @classmethod
    def of(cls, data: ImageData | tuple[Iterable[Any], Iterable[Any]], count: int, seed: int = 0) -> AutoImages:
        """From a data set, or from a pair of iterables of batches: to observe, and held out.

        Args:
            data: What the user gave.
            count: How many images to observe, if there are so many.
            seed: Of their choice.

        Raises:
            DataError: If it is something else, the first iterable has no batch, or the second can be gone through once only.
        """
        if isinstance(data, ImageData):
            images, _ = data.calibration(min(count, len(data.train)), seed)
            return cls(data.name, images, data.batches("test", BATCH), data)
        if not (isinstance(data, tuple) and len(data) == 2):
            raise DataError(
                "expected a data set, or a pair of DataLoaders or other iterables of batches, (to observe, held out), got "
                f"{type(data).__name__}."
            )
        observed, held_out = data
        if iter(held_out) is held_out:
            raise DataError(
                "expected held-out batches that can be gone through again, got an iterator: give a DataLoader or a list."
            )
        first = next(iter(held_out), None)
        return cls(
            "own data",
            draw_images(observed, count, seed).float(),
            held_out,
            labelled=first is None or has_labels(first),
        )

    def judged_by(self, graph: Graph) -> AutoImages:
        """The same with the guesses of the float network in place of labels, where there are none."""
        return self if self.labelled else replace(self, held_out=_Guessed(self.held_out, graph))

    def observed(self, count: int, seed: int) -> tuple[Tensor, Tensor | None]:
        """Some images to observe, with their labels where these are known."""
        if self.training is None:
            return self.some(count, seed), None
        return self.training.calibration(min(count, len(self.training.train)), seed)

    def spread(self, count: int, seed: int) -> Tensor:
        """The same images, those of a data set in an order in which any part of them has all classes alike."""
        if self.training is None:
            return self.some(count, seed)
        return self.training.spread_calibration(min(count, len(self.training.train)), seed)

    def some(self, count: int, seed: int) -> Tensor:
        """Of those to observe, a choice."""
        return self.given[choose(len(self.given), count, seed)]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(channels, height, width) of an image."""
        return tuple(self.given.shape[1:])

    def digest(self) -> str:
        """SHA-256 of all that a result depends on: what is observed, and what is measured on."""
        parts = [self.given]
        for images, labels in each_labelled(self.held_out):
            parts += [images.sum((1, 2, 3), dtype=torch.float64), labels]
        return digest(*parts)


class _Guessed:
    """Batches of images, and what the float network takes them for."""

    def __init__(self, batches: Iterable[Any], graph: Graph) -> None:
        self._batches = batches
        self._model = FloatModel(graph).eval()

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images in each_images(self._batches):
            with torch.no_grad():
                guesses = self._model(images).argmax(1)
            yield images, guesses

    def __len__(self) -> int:
        return len(self._batches) if isinstance(self._batches, Sized) else 0
