# SPDX-License-Identifier: MIT
"""The cheapest of schemes in order of cost that is good enough, each really measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial


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


def cheaper_still(known: int, good: Callable[[int], bool]) -> int | None:
    """The cheapest of the schemes before one that is known, as far as one after another is good.

    Args:
        known: The place of the scheme that is known, in order of cost; the number of schemes where none is.
        good: Measures one of them.

    Returns:
        Its place, or None where the one before is not good, or there is none before.

    >>> cheaper_still(20, lambda place: place >= 17)
    17
    >>> cheaper_still(20, lambda place: False) is None
    True
    """
    place = known
    while place and good(place - 1):
        place -= 1
    return place if place < known else None


def cheapest_way(count: int, ways: Sequence[Sequence[str]], good: Callable[[str, int], bool]) -> tuple[int, str] | None:
    """The cheapest scheme that is good by the first ways that make any good.

    Args:
        count: How many schemes there are, at least one.
        ways: Groups of ways to make the integers of a scheme. The first way of a group halves the schemes; each that follows
            takes longer, and is given those that are cheaper than what the former found. A group is tried where the one before
            it finds none.
        good: Measures a scheme made in a way, by its place in order of cost.

    Returns:
        Its place and its way, or None.

    >>> least = {"quick": 20, "longer": 17, "longest": 3}
    >>> cheapest_way(49, [["quick", "longer"], ["longest"]], lambda way, place: place >= least[way])
    (17, 'longer')
    """
    for first, *longer in ways:
        place = cheapest(count, partial(good, first))
        found = None if place is None else (place, first)
        for way in longer:
            place = cheaper_still(count if found is None else found[0], partial(good, way))
            found = found if place is None else (place, way)
        if found is not None:
            return found
    return None
