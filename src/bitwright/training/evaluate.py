# SPDX-License-Identifier: MIT
"""Accuracy of anything that turns images into logits: a float model, a QuantizedModel, an IntegerModel, an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from bitwright.data.given import each_labelled
from bitwright.errors import DataError
from bitwright.progress import Progress, silent
from bitwright.training.labels import check_labels


@dataclass(frozen=True)
class Accuracy:
    """Counts over a data set.

    Attributes:
        images: How many were evaluated.
        top1: How many were right at the first guess.
        top5: How many were right among the first five guesses (among all, with fewer classes).
    """

    images: int
    top1: int
    top5: int

    def to_dict(self) -> dict[str, int]:
        """The counts as JSON values."""
        return asdict(self)

    @property
    def top1_percent(self) -> float:
        return 100 * self.top1 / self.images

    @property
    def top5_percent(self) -> float:
        return 100 * self.top5 / self.images


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Tensor],
    batches: Iterable[Any],
    *,
    observe: Callable[[Tensor, Tensor], object] | None = None,
    progress: Progress = silent,
) -> Accuracy:
    """Count right guesses.

    Args:
        predict: Images to real logits, of shape (batch, classes).
        batches: (images, labels), as pairs or as dictionaries.
        observe: Called with the logits and the labels of every batch.
        progress: Told about every batch.

    Raises:
        DataError: If there is no image, or a label is no class of the model.
    """
    images_seen = top1 = top5 = 0
    total = len(batches) if isinstance(batches, Sized) else 0
    for done, (images, labels) in enumerate(each_labelled(batches), 1):
        logits = predict(images)
        labels = labels.to(logits.device)
        check_labels(labels, logits.shape[1])
        guesses = logits.topk(min(5, logits.shape[1]), 1).indices == labels.unsqueeze(1)
        images_seen += len(labels)
        top1 += int(guesses[:, 0].sum())
        top5 += int(guesses.sum())
        if observe is not None:
            observe(logits, labels)
        progress(done, max(total, done), top1=100 * top1 / images_seen)
    if not images_seen:
        raise DataError("the data set has no images to evaluate on.")
    return Accuracy(images_seen, top1, top5)
