# SPDX-License-Identifier: MIT
"""How far a layer's second moments are relied on: as far as each half of the images tells what suits the other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import permutations

from torch import Tensor

from bitwright.quantizer.formats import TensorFormat
from bitwright.reconstruction.compensated_weights import compensated, refitted
from bitwright.reconstruction.second_moments import SecondMoments

DAMPINGS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
USUAL = 0.3
"""Where the search begins, and the damping of who has one image: what suits ResNet20, between 4 bits and 2."""
CHANNELS = 256
"""Of each group, that losses are measured on, at most: a layer has one damping, and the time is that of its channels."""


def cross_validated(weight: Tensor, scale: Tensor, halves: Sequence[SecondMoments], window: TensorFormat) -> float:
    """The damping by which integers that were fitted to one half of the images lose least on the other half.

    Many images that differ want little of it, and few of them, or many alike, want much: crops of few photographs fit closely,
    and others are lost. It is searched for downhill from the usual one, since losses have one minimum, nearly.

    Args:
        weight: Of the float network, shape (groups, channels, weights of a channel), float64.
        scale: Of the integers, shape (groups, channels, 1).
        halves: The moments of each half, or none.
        window: The integers that weights may become.
    """
    step = -(-weight.shape[1] // CHANNELS)
    weight, scale = weight[:, ::step], scale[:, ::step]

    @cache
    def lost(place: int) -> float:
        total = 0.0
        for fitted, judged in permutations(halves, 2):
            wanted = refitted(weight / scale, fitted, DAMPINGS[place])
            made = compensated(wanted, fitted.made, window, DAMPINGS[place]) * scale
            # The squared distance of the results, but for that of the float network's from zero.
            total += float(((made @ judged.made - 2 * weight @ judged.across) * made).sum())
        return total

    place = DAMPINGS.index(USUAL)
    for step in (-1, 1):
        while 0 <= place + step < len(DAMPINGS) and lost(place + step) < lost(place):
            place += step
    return DAMPINGS[place]
