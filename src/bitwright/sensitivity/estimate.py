# SPDX-License-Identifier: MIT
"""What every estimator returns: a number, how well it is known, and what that took."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """The mean of independent samples.

    Attributes:
        value: The mean.
        standard_error: The samples' standard deviation over the square root of their number; 0 for what is exact.
        samples: Their number.
        converged: Whether the relative standard error reached the target.
        data_standard_error: How far other images of the same kind would move the value, where that is known: the standard
            deviation between images over the square root of their number. No sampling makes it smaller, only more images do.
    """

    value: float
    standard_error: float
    samples: int
    converged: bool
    data_standard_error: float | None = None

    @property
    def relative_error(self) -> float:
        """Standard error over |value|: 0 if both are zero, infinite if only the value is.

        The absolute value matters: divided by a negative trace, any error would look converged.

        >>> Estimate(-20.0, 1.0, 50, True).relative_error
        0.05
        """
        return relative(self.standard_error, self.value)


def relative(standard_error: float, value: float) -> float:
    """`standard_error` over |value|, with 0/0 = 0."""
    if standard_error == 0:
        return 0.0
    return standard_error / abs(value) if value else math.inf


class RunningMean:
    """Mean and standard error of numbers that arrive one by one (Welford 1962: no cancellation).

    >>> mean = RunningMean()
    >>> for value in (1.0, 2.0, 3.0):
    ...     mean.add(value)
    >>> mean.mean, round(mean.standard_error, 4)
    (2.0, 0.5774)
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = 0.0
        self._squares = 0.0

    def add(self, value: float) -> None:
        self.count += 1
        step = value - self.mean
        self.mean += step / self.count
        self._squares += step * (value - self.mean)

    @property
    def standard_error(self) -> float:
        """Infinite below two numbers."""
        return math.sqrt(self._squares / (self.count - 1) / self.count) if self.count > 1 else math.inf

    @property
    def relative_error(self) -> float:
        return relative(self.standard_error, self.mean)

    def estimate(self, relative_error: float) -> Estimate:
        """What is known by now; converged if its relative error is at most `relative_error`."""
        return Estimate(self.mean, self.standard_error, self.count, self.relative_error <= relative_error)
