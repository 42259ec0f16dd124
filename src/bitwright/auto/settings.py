# SPDX-License-Identifier: MIT
"""What the front door is asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bitwright.errors import BudgetError
from bitwright.scheme import MAX_BITS, MIN_BITS, Budget, Precision

ACT_BITS = (4, 8)
EVERY_WIDTH = tuple(Precision(weight, act) for weight in range(MIN_BITS, MAX_BITS + 1) for act in ACT_BITS)
MAX_DROP = 0.01


@dataclass(frozen=True, kw_only=True)
class AutoSettings:
    """What to look for, and how.

    Attributes:
        max_drop: Share of the images by which the integers may be right less often than the float network, 0.01 for one point
            of a hundred; None asks for the most accurate scheme within the budgets.
        budgets: That every scheme must keep.
        cost: What is to be least while the accuracy holds: `size`, `bops` or `latency`.
        choices: The precisions that a layer may have.
        points: How many limits the frontier is traced at: neighbours on it differ by that part of the whole way.
        calibration_images: How many images ranges are observed on.
        sensitivity_images: How many images sensitivities are measured on.
        reconstruct: Whether each scheme's rounding is learned, block by block, before it is measured. Then the layers descend all
            at once: those of the one scheme, where budgets alone decide, else those of schemes that are cheaper than what blocks
            alone reach.
        seed: The seed of everything random.
    """

    max_drop: float | None = MAX_DROP
    budgets: tuple[Budget, ...] = ()
    cost: str = "size"
    choices: tuple[Precision, ...] = EVERY_WIDTH
    points: int = 49
    calibration_images: int = 512
    sensitivity_images: int = 512
    reconstruct: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.max_drop is None and not self.budgets:
            raise BudgetError("expected a largest drop of accuracy, or a budget, got neither.")
        if self.max_drop is not None and not (math.isfinite(self.max_drop) and 0 <= self.max_drop < 1):
            raise BudgetError(f"expected a drop from 0 to 1, such as 0.01 for one point, got {self.max_drop}.")
        if self.cost not in ("size", "bops", "latency"):
            raise BudgetError(f"expected size, bops or latency to be least, got '{self.cost}'.")
        if self.cost != "size" and self.max_drop is None:
            raise BudgetError(f"{self.cost} is least within a largest drop of accuracy, of which none was asked for.")


DEFAULT = AutoSettings()
"""At most one point lost, for as few bytes as that takes."""
