# SPDX-License-Identifier: MIT
"""What the two splits of a data set are called, where it says so by names."""

from __future__ import annotations

from collections.abc import Iterable

from bitwright.errors import DataError

TRAIN, TEST = ("train", "training"), ("val", "valid", "validation", "test", "testing")
"""The first that is there; upper and lower case are the same."""
SHOWN = 8
"""Names in a message: a folder of classes has thousands."""


def named_splits(there: Iterable[str], given: str, name: str) -> tuple[str, str]:
    """The names of the splits to train with and to judge on.

    Args:
        there: All names.
        given: `TRAIN,TEST` where they were named; empty for the usual ones.
        name: Of the data, for messages.

    Raises:
        DataError: If one is missing; says how to name it.

    >>> named_splits(["test", "Train", "validation"], "", "hfds:x")
    ('Train', 'validation')
    >>> named_splits(["A", "a", "B"], "a,b", "hfds:x")
    ('a', 'B')
    """
    known = list(there)
    lower = {split.lower(): split for split in reversed(known)}
    wanted = [[word] for word in given.split(",")] if given else [TRAIN, TEST]
    if len(wanted) != 2:
        raise DataError(f"expected two splits with a comma between them, TRAIN,TEST, got '{given}'.")
    found = []
    for names in wanted:
        split = next((each if each in known else lower[each.lower()] for each in names if each.lower() in lower), None)
        if split is None:
            shown = ", ".join(known[:SHOWN]) or "none"
            raise DataError(f"no split '{names[0]}' in {name}, which has {shown}: name the two as {name}:TRAIN,TEST.")
        found.append(split)
    return found[0], found[1]
