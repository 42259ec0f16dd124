# SPDX-License-Identifier: MIT
"""Metrics of torchmetrics whose counts are integers and whose results are float64: the same figure for the same counts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.classification import MulticlassConfusionMatrix

from bitwright.task.labels import check_labels
from bitwright.task.pairs import pairs


class RightGuesses(Metric):
    """The share of images whose class is among the first `k` guesses, in percent (all of them, with fewer classes).

    Args:
        k: How many guesses count.
    """

    right: Tensor
    images: Tensor
    full_state_update = False

    def __init__(self, k: int) -> None:
        super().__init__()
        self.k = k
        self.add_state("right", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("images", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        """Count a batch: outputs [batch, classes], targets [batch].

        Raises:
            DataError: If targets are no classes: probabilities will do for training alone.
        """
        check_labels(targets, outputs.shape[1])
        guesses = outputs.topk(min(self.k, outputs.shape[1]), 1).indices
        self.right += (guesses == targets.unsqueeze(1)).sum()
        self.images += len(targets)

    def compute(self) -> Tensor:
        """The percentage so far."""
        return 100 * self.right.double() / self.images


class PixelAccuracy(MulticlassConfusionMatrix):
    """The share of pixels whose class is the first guess, in percent, of those that have a class."""

    def compute(self) -> Tensor:
        """The percentage so far; no number where no pixel had a class."""
        confusion = super().compute().double()
        return 100 * confusion.diagonal().sum() / confusion.sum()


class MeanIoU(MulticlassConfusionMatrix):
    """Intersection over union, in percent, mean over the classes that occur among guesses or targets."""

    def compute(self) -> Tensor:
        """The percentage so far; no number where no pixel had a class."""
        confusion = super().compute().double()
        both = confusion.diagonal()
        union = confusion.sum(0) + confusion.sum(1) - both
        return 100 * (both / union)[union > 0].mean()


class RelativeError(Metric):
    """The root of the squared difference over that of the targets' squares, over all outputs, in percent."""

    difference: Tensor
    squares: Tensor
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("difference", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("squares", torch.tensor(0.0, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, outputs: Any, targets: Any) -> None:
        """Count a batch, both of one shape, or several of the same names and shapes."""
        for made, wanted in pairs(outputs, targets):
            self.difference += (made.double() - wanted.double()).square().sum()
            self.squares += wanted.double().square().sum()

    def compute(self) -> Tensor:
        """The percentage so far; zero where nothing differs."""
        return 100 * (self.difference / self.squares.clamp_min(torch.finfo(torch.float64).tiny)).sqrt()


class SameGuess(Metric):
    """The share of images, or of pixels, whose first guess (the largest output of axis 1) is that of the targets, in percent."""

    same: Tensor
    places: Tensor
    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        self.add_state("same", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("places", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Any, targets: Any) -> None:
        """Count a batch, both of one shape, or several of the same names and shapes."""
        for made, wanted in pairs(outputs, targets):
            equal = made.argmax(1) == wanted.argmax(1)
            self.same += equal.sum()
            self.places += equal.numel()

    def compute(self) -> Tensor:
        """The percentage so far."""
        return 100 * self.same.double() / self.places
