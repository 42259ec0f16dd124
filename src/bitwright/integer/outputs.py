# SPDX-License-Identifier: MIT
"""What an integer model returns: int32 tensors by name, and what their integers are worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bitwright.returned import SINGLE


@dataclass(frozen=True, eq=False)
class Output:
    """One tensor that leaves the network, as int32.

    Attributes:
        tensor: The operation that makes it.
        unit: float64, what one integer is worth: of shape [1], or [channels], or as many axes as the tensor without its batch,
            of size one where it does not change.
    """

    tensor: str
    unit: npt.NDArray[np.float64]

    def across(self, rank: int) -> npt.NDArray[np.float64]:
        """The unit with as many axes as a tensor of `rank` axes without its batch, to be multiplied by its integers."""
        unit = np.asarray(self.unit)
        return unit if unit.ndim == rank else unit.reshape(-1, *[1] * (rank - 1))

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the unit is one of a tensor of `shape`, without its batch."""
        unit = np.asarray(self.unit).shape
        return unit in ((1,), shape[:1]) or (
            len(unit) == len(shape) and all(size in (1, whole) for size, whole in zip(unit, shape, strict=True))
        )


def single_output(tensor: str, unit: npt.ArrayLike = (1.0,)) -> dict[str, Output]:
    """The outputs of a model that returns one tensor."""
    return {SINGLE: Output(tensor, np.asarray(unit, dtype=np.float64))}
