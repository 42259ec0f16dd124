# SPDX-License-Identifier: MIT
"""The names that outputs of a network may have in files."""

from __future__ import annotations

from collections.abc import Iterable

from bitwright.errors import shown
from bitwright.returned import SINGLE


def fault_of_names(names: Iterable[str]) -> str | None:
    """Why the outputs of a network cannot have these names, if they cannot.

    In files, an output has two tensors, NAME_int32 and NAME, beside the input `images`.

    >>> fault_of_names(["boxes", "boxes_int32"])
    "the name 'boxes_int32' of an output is that of another's integers"
    """
    given = list(names)
    if not given:
        return "it returns nothing"
    if len(given) == 1:
        return None if given == [SINGLE] else f"its only output is called {shown(given[0])}, not '{SINGLE}'"
    for name in given:
        if not name or name in ("images", "images_int32") or not name.isprintable():
            return f"an output cannot be called {shown(name)}"
        if name.removesuffix("_int32") != name and name.removesuffix("_int32") in given:
            return f"the name '{name}' of an output is that of another's integers"
    return None
