# SPDX-License-Identifier: MIT
"""Right guesses of integers beside those of the float network, image by image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bitwright.progress import Progress
from bitwright.training import evaluate


@dataclass(frozen=True)
class Measured:
    """How a network compares with the float one on the same images.

    Attributes:
        images: How many.
        right: How many it is right at.
        lost: At how many the float network is right and it is not.
        gained: At how many it is right and the float network is not.
    """

    images: int
    right: int
    lost: int
    gained: int

    @property
    def top1(self) -> float:
        """Share of right guesses."""
        return self.right / self.images

    @property
    def top1_error(self) -> float:
        """Its standard error, as of a share of independent images."""
        return math.sqrt(self.top1 * (1 - self.top1) / self.images)

    @property
    def drop(self) -> float:
        """How much less often it is right than the float network, as a share of all images.

        >>> Measured(images=1000, right=900, lost=15, gained=5).drop
        0.01
        """
        return (self.lost - self.gained) / self.images

    @property
    def drop_error(self) -> float:
        """Its standard error. Both networks saw the same images, so only those count at which they differ (McNemar 1947)."""
        return math.sqrt(max(self.lost + self.gained - self.images * self.drop**2, 0.0)) / self.images

    def to_dict(self) -> dict[str, Any]:
        """As JSON values, with what follows from the counts."""
        derived = ("top1", "top1_error", "drop", "drop_error")
        return asdict(self) | {name: getattr(self, name) for name in derived}

    def __str__(self) -> str:
        return f"{100 * self.top1:.2f} ± {100 * self.top1_error:.2f} %, drop {100 * self.drop:.2f} ± {100 * self.drop_error:.2f}"


def right_guesses(
    predict: Callable[[Tensor], Tensor], batches: Iterable[Any], progress: Progress
) -> tuple[Tensor, Tensor]:
    """The label of each image, in order, and whether it is that of the largest logit: int64 and bool [images]."""
    found: list[tuple[Tensor, Tensor]] = []

    def observe(logits: Tensor, labels: Tensor) -> None:
        found.append((labels.cpu(), (logits.argmax(1) == labels).cpu()))

    evaluate(predict, batches, observe=observe, progress=progress)
    labels, right = (torch.cat(parts) for parts in zip(*found, strict=True))
    return labels, right


def compared(right: Tensor, float_right: Tensor) -> Measured:
    """Two networks' right guesses at the same images, bool [images] each."""
    return Measured(len(right), int(right.sum()), int((float_right & ~right).sum()), int((right & ~float_right).sum()))
