# SPDX-License-Identifier: MIT
"""How large sums of integers can become, and what holds them: over windows, and of weighted terms.

Bounds of a layer's sums need its weights: they stand in `integer/proof/bounds.py`.
"""

from __future__ import annotations

from collections.abc import Iterable

FLOAT32_EXACT = 2**24
"""Every integer up to here, and every sum whose partial sums stay within, is exact in float32."""

INT32_MAX = 2**31 - 1

Ends = tuple[int, int]
"""The smallest and the largest integer of a tensor."""


def magnitude(ends: Ends) -> int:
    """The largest distance from zero of what lies between two ends that have it between them, or of the farther one.

    >>> magnitude((-128, 127))
    128
    """
    low, high = ends
    return max(-low, high)


def window_sums(kernel: tuple[int, int], ends: Ends) -> Ends:
    """Between what the sums over a window lie, padding with zeros included; no partial sum is farther from zero.

    Args:
        kernel: Height and width of the window.
        ends: The ends of the values.

    >>> window_sums((2, 2), (3, 15))
    (0, 60)
    """
    area, (low, high) = kernel[0] * kernel[1], ends
    return area * min(low, 0), area * max(high, 0)


def weighted_bound(ends: Iterable[Ends], multipliers: Iterable[int]) -> int:
    """What neither a weighted term, nor a sum of some of them, exceeds in magnitude.

    Args:
        ends: The ends of each term.
        multipliers: What each is multiplied by.

    >>> weighted_bound([(-128, 127), (0, 255)], (2, 1))
    511
    """
    return sum(magnitude(pair) * abs(factor) for pair, factor in zip(ends, multipliers, strict=True))
