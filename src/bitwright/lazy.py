# SPDX-License-Identifier: MIT
"""Packages whose names are imported when they are first used, so that who wants a table does not wait for PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazily(package: str, sources: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package (PEP 562).

    Args:
        package: Its `__name__`.
        sources: The module of each name, within `package`.
    """

    def find(name: str) -> Any:
        if name not in sources:
            raise AttributeError(f"module '{package}' has no attribute '{name}'")
        return getattr(import_module(f"{package}.{sources[name]}"), name)

    return find
