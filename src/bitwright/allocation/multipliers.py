# SPDX-License-Identifier: MIT
"""Lagrange multipliers: what a unit of each budget is worth, in loss."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bitwright.allocation.options import Int64

Floats = NDArray[np.float64]

SMOOTHING = 1e-4
"""Where smoothing ends, relative to the dual value. Measured, what is found is then within 1e-5 of the maximum."""

ROUNDING = 2.0**-44
"""Far more than what rounding can add to the dual value, in parts of its terms: it is taken off."""

SHRINK = 0.3
"""By what the smoothing falls from one round to the next; less careful steps take as long and end less exactly."""


def multipliers(losses: Floats, amounts: Floats, room: Floats, starts: Int64) -> Floats | None:
    """Multipliers y >= 0 that nearly maximise the Lagrangian dual.

    The dual is D(y) = sum over groups of min over options of (loss + y . amounts), minus y . room: for any y >= 0 no choice
    that fits loses less. It is concave and piecewise linear. We follow its smoothed form, in which each minimum becomes
    -t log(sum of exp(-x / t)) and t log(y) keeps y positive, by Newton steps while t falls: an interior-point method with
    as many unknowns as there are budgets.

    Args:
        losses: The losses of each option, at least 0 in each group's least; shape (options,).
        amounts: What each option uses above the least of its group; shape (limits, options).
        room: How much may be used of each above these least; shape (limits,), at least 0.
        starts: Where the options of each group begin, and end; shape (groups + 1,).

    Returns:
        One for each limit; or None if the dual exceeds the loss of every choice, which proves that none fits.

    Source:
        Geoffrion 1974, Lagrangean relaxation for integer programming, Mathematical Programming Study 2.
    """
    first = starts[:-1]
    group = np.repeat(np.arange(len(first)), np.diff(starts))
    unit = np.maximum.reduceat(losses, first).sum()
    reach = np.maximum.reduceat(amounts, first, axis=1).sum(axis=1)
    if unit == 0 or not len(room):
        return np.zeros(len(room))
    cost, use, most = losses / unit, amounts / reach[:, None], room / reach
    price, smoothing = np.ones(len(room)), 1.0 / len(first)
    best, best_price = -np.inf, price
    while True:
        value, dual, gradient, curvature = _smoothed(cost, use, most, price, smoothing, first, group)
        for _ in range(20):
            if dual > best:
                best, best_price = dual, price
            if best > 1:  # at once: where nothing fits, the multipliers grow without bound
                return None
            # In units of the multipliers themselves the Hessian is at least `smoothing`, however large they grow.
            # The ridge serves where limits coincide.
            scaled = curvature * np.outer(price, price)
            scaled += 1e-10 * np.trace(scaled) * np.eye(len(price))
            relative = np.linalg.solve(scaled, price * gradient)
            step = price * relative
            rise = float(gradient @ step)
            if rise < smoothing:
                break
            length = 0.9 / max(0.9, -float(relative.min()))  # no multiplier falls below a tenth of itself
            while length > 1e-6:
                tried = _smoothed(cost, use, most, price + length * step, smoothing, first, group)
                if tried[0] >= value + 0.1 * length * rise:
                    break
                length *= 0.3
            price = price + length * step
            value, dual, gradient, curvature = tried
        if smoothing * len(first) <= SMOOTHING * best or smoothing < 1e-12:
            found: Floats = best_price * unit / reach
            return found
        smoothing *= SHRINK


def _smoothed(
    cost: Floats, use: Floats, most: Floats, price: Floats, smoothing: float, first: Int64, group: Int64
) -> tuple[float, float, Floats, Floats]:
    """The smoothed dual, the dual itself, the gradient and the negated Hessian of the former."""
    reduced = cost + price @ use
    least = np.minimum.reduceat(reduced, first)
    weight = np.exp((least[group] - reduced) / smoothing)
    total = np.add.reduceat(weight, first)
    paid, saved = float(least.sum()), float(price @ most)
    dual = paid - saved - ROUNDING * (abs(paid) + saved)
    value = paid - saved - smoothing * float(np.log(total).sum() - np.log(price).sum())
    share = use * (weight / total[group])
    mean = np.add.reduceat(share, first, axis=1)
    gradient = mean.sum(axis=1) - most + smoothing / price
    curvature = (share @ use.T - mean @ mean.T) / smoothing + np.diag(smoothing / price**2)
    return value, dual, gradient, curvature
