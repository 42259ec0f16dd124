# SPDX-License-Identifier: MIT
"""Halving finds the cheapest scheme that is good enough, and what it answers was measured."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bitwright.auto.search import cheapest, cheapest_way


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


@given(st.lists(st.lists(st.integers(0, 20), min_size=1, max_size=3), min_size=1, max_size=3), st.integers(1, 20))
def test_the_first_group_that_finds_any(groups: list[list[int]], count: int) -> None:
    """Where accuracy grows with cost: the best that a way of the group finds, which no way behind it is asked about again."""
    least = {f"{place}.{number}": first for place, group in enumerate(groups) for number, first in enumerate(group)}
    ways = [[f"{place}.{number}" for number in range(len(group))] for place, group in enumerate(groups)]
    asked: dict[str, list[int]] = {}

    def good(way: str, place: int) -> bool:
        asked.setdefault(way, []).append(place)
        return place >= least[way]

    found = cheapest_way(count, ways, good)
    reached = [min(group) for group in groups if min(group) < count]
    assert (found[0] if found else None) == next(iter(reached), None)
    if found is None:
        return
    place, way = found
    group = next(group for group in ways if way in group)
    assert set(asked) <= {each for other in ways[: ways.index(group) + 1] for each in other}
    before = count
    for each in group:
        assert each == group[0] or all(one < before for one in asked.get(each, []))
        before = min(before, least[each])
    assert place == 0 or place - 1 in asked[group[-1]]
