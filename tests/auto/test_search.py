# SPDX-License-Identifier: MIT
"""Halving finds the cheapest scheme that is good enough, and what it answers was measured."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bitwright.auto.search import cheapest


@given(st.integers(1, 60), st.integers(0, 60))
def test_where_accuracy_grows_with_cost(count: int, first: int) -> None:
    """It is the first good one of all, as looking at each would tell, and few are looked at."""
    asked: list[int] = []

    def good(place: int) -> bool:
        asked.append(place)
        return place >= first

    assert cheapest(count, good) == next((place for place in range(count) if place >= first), None)
    assert len(asked) == len(set(asked)) <= 2 + count.bit_length()


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_where_it_does_not(schemes: list[bool]) -> None:
    """The answer is good, and the next cheaper one was looked at and is not."""
    asked: set[int] = set()

    def good(place: int) -> bool:
        asked.add(place)
        return schemes[place]

    found = cheapest(len(schemes), good)
    assert (found is None) == (not schemes[-1])
    if found is not None:
        assert schemes[found]
        assert found == 0 or (found - 1 in asked and not schemes[found - 1])
