# SPDX-License-Identifier: MIT
"""Classes that have no names: numbers up to the largest label, which decides how many there are."""

from __future__ import annotations

from torch import Tensor

from bitwright.errors import DataError

MAX_CLASSES = 2**20
"""More than any data set has: labels beyond are numbers of something else, and would take the memory of as many names."""


def numbered_classes(where: str, *labels: Tensor) -> tuple[str, ...]:
    """The numbers from 0 to the largest label, as names.

    Args:
        where: Whose labels they are, for messages.
        labels: int64 [images] of each split.

    Raises:
        DataError: If there are more than `MAX_CLASSES`.

    >>> import torch
    >>> numbered_classes("these images", torch.tensor([0, 2]), torch.tensor([1]))
    ('0', '1', '2')
    """
    most = max(int(each.max()) for each in labels)
    if most >= MAX_CLASSES:
        raise DataError(
            f"expected labels below {MAX_CLASSES:,}, got {most:,} in {where}: number the classes from 0, or give their names."
        )
    return tuple(map(str, range(most + 1)))
