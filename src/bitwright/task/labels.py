# SPDX-License-Identifier: MIT
"""Whether labels are classes of a model, before a loss fails on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitwright.errors import DataError


def all_targets(batches: Any, first: Tensor) -> Tensor:
    """All labels of the data set that `batches` reads, where it knows them and they are the targets; else the `first` batch's."""
    images = getattr(getattr(batches, "dataset", None), "images", None)
    labels = getattr(images, "labels", None)
    return labels if isinstance(labels, Tensor) and labels.shape[1:] == first.shape[1:] else first


def are_probabilities(labels: Tensor, classes: int) -> bool:
    """Whether labels are a probability of each class, which a cross entropy takes as well: shape (batch, classes)."""
    return labels.is_floating_point() and labels.dim() == 2 and labels.shape[1] == classes


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels that are no integers from 0 to `classes - 1`, one for each image.

    Raises:
        DataError: If there are any.
    """
    if labels.dim() != 1 or labels.is_floating_point() or labels.dtype == torch.bool:
        shape = tuple(labels.shape)
        raise DataError(
            f"expected a class for each image, integers of shape (batch,), got {labels.dtype} of shape {shape}."
        )
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(
            f"the model has {classes} classes, but labels go from {int(labels.min())} to {int(labels.max())}: "
            f"make the model with num_classes={int(labels.max()) + 1}, or take another data set."
        )
