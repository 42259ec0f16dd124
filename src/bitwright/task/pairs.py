# SPDX-License-Identifier: MIT
"""What a network returns beside what it is compared with: one tensor each, or several by name."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from bitwright.errors import DataError
from bitwright.returned import by_name, differences


def pairs(outputs: Any, targets: Any) -> list[tuple[Tensor, Tensor]]:
    """Each output with its target.

    Args:
        outputs: A tensor, or tensors by name.
        targets: Likewise, of the same names and shapes.

    Raises:
        DataError: If they are of other names or shapes.
    """
    if (other := differences(targets, outputs)) is not None:
        raise unlike(*other)
    wanted = by_name(targets)
    return [(made, wanted[name]) for name, made in by_name(outputs).items()]


def unlike(reference: str, model: str) -> DataError:
    """The error of a reference that returns something else than the model, both in words."""
    return DataError(
        f"the reference returns {reference} for each image, the model {model}: give the float network that it was made from."
    )


def half_squared(outputs: Any, targets: Any) -> Tensor:
    """Half the mean squared difference; of several outputs, the sum over them, so that each counts as much.

    Raises:
        DataError: If they are of other names or shapes.
    """
    return torch.stack([(made - wanted).square().mean() / 2 for made, wanted in pairs(outputs, targets)]).sum()
