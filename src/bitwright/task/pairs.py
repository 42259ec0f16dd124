# SPDX-License-Identifier: MIT
"""What a network returns beside what it is compared with: one tensor each, or several by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import DataError


def pairs(outputs: Any, targets: Any) -> list[tuple[Tensor, Tensor]]:
    """Each output with its target.

    Args:
        outputs: A tensor, or tensors by name.
        targets: Likewise, of the same names and shapes.

    Raises:
        DataError: If they are of other names or shapes.
    """
    several = isinstance(outputs, Mapping), isinstance(targets, Mapping)
    if several == (False, False):
        return [(outputs, targets)]
    if (
        several != (True, True)
        or {*outputs} != {*targets}
        or any(outputs[k].shape != targets[k].shape for k in outputs)
    ):
        raise DataError(
            f"the reference returns {_shown(targets)} for each image, the model {_shown(outputs)}: give the float network that "
            "it was made from."
        )
    return [(outputs[name], targets[name]) for name in outputs]


def half_squared(outputs: Any, targets: Any) -> Tensor:
    """Half the mean squared difference; of several outputs, the sum over them, so that each counts as much."""
    return torch.stack([(made - wanted).square().mean() / 2 for made, wanted in pairs(outputs, targets)]).sum()


def _shown(given: Any) -> str:
    if not isinstance(given, Mapping):
        return str(tuple(given.shape[1:]))
    return ", ".join(f"{name} {tuple(values.shape[1:])}" for name, values in given.items())
