# SPDX-License-Identifier: MIT
"""The cheapest of schemes in order of cost that is good enough, each really measured."""

from __future__ import annotations

from collections.abc import Callable


def cheapest(count: int, good: Callable[[int], bool]) -> int | None:
    """The first of `count` schemes, in order of cost, that is good, as far as halving the way can tell.

    What costs more is mostly better, not always: so the answer is a scheme that was found good, and whose next cheaper one was
    found not to be; one that is cheaper still, behind others that are not, may be good by chance.

    Args:
        count: How many there are, at least one.
        good: Measures one of them.

    Returns:
        Its place, or None where not even the last is good.

    >>> cheapest(49, lambda place: place >= 17)
    17
    >>> cheapest(8, lambda place: False) is None
    True
    """
    if not good(count - 1):
        return None
    low, high = -1, count - 1  # not good, or before the first; and good
    while high - low > 1:
        middle = (low + high) // 2
        if good(middle):
            high = middle
        else:
            low = middle
    return high
