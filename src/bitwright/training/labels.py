# SPDX-License-Identifier: MIT
"""Whether labels are classes of a model, before a loss function fails on them."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bitwright.errors import DataError


def all_labels(batches: Any, first: Tensor) -> Tensor:
    """All labels of the data set that `batches` reads, where it knows them; otherwise those of its `first` batch."""
    images = getattr(getattr(batches, "dataset", None), "images", None)
    labels = getattr(images, "labels", None)
    return labels if isinstance(labels, Tensor) else first


def check_labels(labels: Tensor, classes: int) -> None:
    """Refuse labels outside 0 to `classes - 1`.

    Raises:
        DataError: If there are any.
    """
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(
            f"the model has {classes} classes, but labels go from {int(labels.min())} to {int(labels.max())}: "
            f"make the model with num_classes={int(labels.max()) + 1}, or take another data set."
        )
