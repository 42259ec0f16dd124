# SPDX-License-Identifier: MIT
"""Where the window of a tensor lies: asymmetric quantization, of the smallest step or of the least squared error.

A tensor whose values reach from -0.1 to 3 wastes half of a symmetric format: one of its bits only says that hardly anything is
negative. A window of as many integers, from any quant_min that is not positive, has no such bit. Zero stays the integer 0, so
that nothing but the limits of clamps, and what bytes are counted from, knows of it.
"""

from __future__ import annotations

from math import ceil, floor

import torch
from torch import Tensor

from bitwright.quantizer.activations import drawn, full_scale, least_squares_scale, quantize_activation
from bitwright.quantizer.formats import TensorFormat

WORTH = 0.9
"""A window is taken if it has at most this part of the symmetric format's squared error: below, plain formats are as good."""
_STEPS = 100
_SAMPLES = 2**14
_PATIENCE = 4
"""Steps from one look whether smaller ones are worth while to the next."""


def smallest_window(low: float, high: float, bit_width: int) -> tuple[TensorFormat, float]:
    """The window that holds all of [low, high], which contains 0, in the smallest steps, and that step; 0 for nothing but 0.

    With z integers below zero and n above, the step is max(high / n, -low / z), where z + n = 2**bit_width - 1: the first grows
    with z and the second falls, so the best whole z is next to where they meet.

    >>> smallest_window(-0.5, 3.0, 4)
    (TensorFormat(bit_width=4, quant_min=-2, quant_max=13), 0.25)
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return TensorFormat.symmetric(bit_width), 0.0
    last = (1 << bit_width) - 1
    meeting = min(max(last * (low / (low - high)), 1.0 if low else 0.0), last - (1.0 if high else 0.0))
    near = [TensorFormat.starting(bit_width, -below) for below in (floor(meeting), ceil(meeting))]
    return min(((window, full_scale(low, high, window)) for window in near), key=lambda found: found[1])


def smallest_format(low: float, high: float, bit_width: int) -> tuple[TensorFormat, float]:
    """`smallest_window`, or the symmetric format and its full scale where a window is not worth it.

    The squared error of rounding is that of the step.
    """
    symmetric = TensorFormat.symmetric(bit_width)
    usual = full_scale(low, high, symmetric)
    window, step = smallest_window(low, high, bit_width)
    return (window, step) if step**2 <= WORTH * usual**2 else (symmetric, usual)


def least_squares_format(values: Tensor, bit_width: int, full: float | None = None) -> tuple[TensorFormat, float]:
    """The window and the scale of least squared error, or the symmetric ones where a window is not worth it.

    Scales are 100 parts of that at which a window holds all values, from the largest down to where clipping alone costs more than
    the best; windows are all that there are. For one scale, the error of
    all windows follows from sums over sorted values: what lies below a window is moved to its least integer m, which costs
    sum (v - s m)**2 = sum v**2 - 2 s m sum v + (s m)**2 count; above, likewise; in between, values are rounded.

    Args:
        values: Real values, of any shape; of more than 16,384, windows are tried on as many, drawn.
        bit_width: The bit width of the format, 2 to 8.
        full: The scale at which the symmetric format holds everything; that of `values` where none is given.

    >>> least_squares_format(torch.tensor([-0.5, 0.0, 1.0, 2.75, 3.25]), 4)
    (TensorFormat(bit_width=4, quant_min=-2, quant_max=13), 0.25)
    """
    symmetric = TensorFormat.symmetric(bit_width)
    flat = values.detach().flatten()
    usual = least_squares_scale(flat, symmetric, full)
    flat = drawn(flat, _SAMPLES)
    _, widest = smallest_window(float(flat.min()), float(flat.max()), bit_width)
    if widest <= 0:
        return symmetric, usual
    ordered = flat.double().sort().values
    sums, squares = _from_zero(ordered), _from_zero(ordered.square())
    least = torch.arange(1 - (1 << bit_width), 1, dtype=torch.float64, device=flat.device)
    most = least + ((1 << bit_width) - 1)

    def clipped(first: Tensor, last: Tensor, step: float) -> Tensor:
        """The error of the values outside of each window, which holds those from place `first` to place `last`."""
        below = squares[first] - 2 * step * least * sums[first] + first * (step * least) ** 2
        above = (
            squares[-1]
            - squares[last]
            - 2 * step * most * (sums[-1] - sums[last])
            + (len(ordered) - last) * (step * most) ** 2
        )
        return below + above

    found: list[tuple[float, int, float]] = []
    steps = widest * torch.linspace(1, 1 / _STEPS, _STEPS, dtype=torch.float64).numpy()
    for number, step in enumerate(steps):
        if number and number % _PATIENCE == 0:
            # A smaller step only clips more: every window of it lies within one of this step.
            start, stop = (
                torch.searchsorted(ordered, step * least),
                torch.searchsorted(ordered, step * most, right=True),
            )
            if float(clipped(start, stop, step).min()) > min(found)[0]:
                break
        rounded = (ordered / step).round_()
        within = _from_zero((ordered - rounded * step).square_())
        first, last = torch.searchsorted(rounded, least), torch.searchsorted(rounded, most, right=True)
        least_error, place = (clipped(first, last, step) + within[last] - within[first]).min(0)
        found.append((float(least_error), int(least[place]), float(step)))
    error, quant_min, step = min(found)
    with_usual = (quantize_activation(flat, usual, symmetric) - flat).double().square().sum()
    if error > WORTH * float(with_usual):
        return symmetric, usual
    return TensorFormat.starting(bit_width, quant_min), step


def _from_zero(values: Tensor) -> Tensor:
    """Sums of the first 0, 1, 2, ... values."""
    return torch.cat([values.new_zeros(1), values.cumsum(0)])
