# SPDX-License-Identifier: MIT
"""Batches as users give them: a DataLoader or any other iterable, of pairs or of dictionaries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import DataError
from bitwright.overview import shape_text

IMAGES = ("images", "image", "pixel_values", "inputs", "input", "x")
LABELS = ("labels", "label", "targets", "target", "y")
"""Keys of a dictionary, the first that is there."""

_EXPECTED = "expected a DataLoader or another iterable of batches, each (images, labels) or a dictionary of 'images' and 'labels'"


def each_labelled(batches: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
    """Images and labels of each batch.

    Raises:
        DataError: If these are no batches, or one has no labels.
    """
    for batch in checked(batches):
        yield labelled(batch)


def each_images(batches: Iterable[Any]) -> Iterator[Tensor]:
    """Images of each batch, which may have labels.

    Raises:
        DataError: If these are no batches.
    """
    for batch in checked(batches):
        yield only_images(batch)


def in_one(batches: Sequence[Tensor], what: str) -> Tensor:
    """What batches hold, all in one tensor.

    Args:
        batches: At least one.
        what: They hold, for messages: images, labels.

    Raises:
        DataError: If it is not of one shape.
    """
    shapes = list(dict.fromkeys(shape_text(batch.shape[1:]) or "one number" for batch in batches))
    if len(shapes) > 1:
        raise DataError(
            f"expected {what} of one shape in all batches, got {shapes[0]} and {shapes[1]}: make them alike."
        )
    return torch.cat(list(batches))


def only_images(batch: Any) -> Tensor:
    """Images of a batch, which may have labels.

    Raises:
        DataError: If it has none.
    """
    return batch if isinstance(batch, Tensor) else _parts(batch)[0]


def has_labels(batch: Any) -> bool:
    """Whether a batch has labels beside its images.

    Raises:
        DataError: If it has no images.
    """
    return not isinstance(batch, Tensor) and _parts(batch)[1] is not None


def labelled(batch: Any) -> tuple[Tensor, Tensor]:
    """Images and labels of a batch.

    Raises:
        DataError: If it has none.
    """
    images, labels = _parts(batch)
    if labels is None:
        raise DataError(f"{_EXPECTED}; got a batch of {_named(batch)}, without labels.")
    return images, labels


def checked(batches: Any) -> Iterator[Any]:
    """The batches as they come.

    Raises:
        DataError: If these are none.
    """
    if hasattr(batches, "batches") and hasattr(batches, "train"):
        raise DataError(f"{_EXPECTED}; got a whole data set: take its batches, data.batches('train', 128).")
    if isinstance(batches, Tensor | Mapping | str | bytes) or not hasattr(batches, "__iter__"):
        raise DataError(f"{_EXPECTED}; got {_named(batches)}: put it in a list where it is one batch.")
    return iter(batches)


def _parts(batch: Any) -> tuple[Tensor, Tensor | None]:
    images: Any = None
    labels: Any = None
    if isinstance(batch, Mapping):
        images, labels = (next((batch[key] for key in keys if key in batch), None) for keys in (IMAGES, LABELS))
    elif isinstance(batch, list | tuple) and batch:
        images, labels = batch[0], batch[1] if len(batch) > 1 else None
    if not isinstance(images, Tensor) or not (labels is None or isinstance(labels, Tensor)):
        raise DataError(f"{_EXPECTED}, all tensors; got a batch of {_named(batch)}.")
    return images, labels


def _named(value: Any) -> str:
    """What a value is, for a message."""
    if isinstance(value, Mapping):
        return f"{type(value).__name__} with the keys {', '.join(map(repr, list(value)[:8])) or 'none'}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} of ({', '.join(_named(item) for item in value[:4])})"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return type(value).__name__
