# SPDX-License-Identifier: MIT
"""Names for what a pass makes, which nothing has."""

from __future__ import annotations

from collections.abc import Container


def fresh(taken: Container[str], name: str) -> str:
    """`name`, or with underscores behind it where that is taken: by a module of the user's, or by what the pass made before.

    >>> fresh({"relu.view", "relu.view_"}, "relu.view")
    'relu.view__'
    """
    while name in taken:
        name += "_"
    return name
