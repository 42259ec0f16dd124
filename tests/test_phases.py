# SPDX-License-Identifier: MIT
"""What a node means in a phase is written down for every kind that the phase meets, or why it is not; nothing is guessed."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import bitwright
from bitwright.graph.nodes import Node
from phases import PHASES, Phase, table

CONTRIBUTING = Path(__file__).parent.parent / "CONTRIBUTING.md"


class Unknown(Node):
    """A kind of node that no phase knows."""


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.where)
def test_every_kind_has_an_entry_or_a_reason(phase: Phase) -> None:
    """A kind without an entry is one whose reason is written, and no reason outlives its cause."""
    assert {kind for kind in phase.kinds if not phase.knows(kind)} == set(phase.without)


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.where)
def test_what_is_unknown_is_refused_by_name(phase: Phase) -> None:
    """The base of an open function raises for a node that it does not know, and names its kind."""
    unknown = Unknown(name="a", inputs=(), shape=(1,))
    parameters = phase.function.dispatch(object).__code__.co_argcount
    with pytest.raises(Exception, match="Unknown") as raised:
        phase.function(unknown, *[None] * (parameters - 1))
    assert type(raised.value).__name__ in ("NotImplementedError", "ExportError", "FileFormatError", "TypeError")


def _open_functions(module: ModuleType) -> list[str]:
    """The single-dispatch functions of a module whose first argument is a node."""

    def opens(value: Any) -> bool:
        base = getattr(value, "dispatch", None) and value.dispatch(object)
        return base is not None and next(iter(base.__annotations__.values()), "") in ("Node", "Layer", "Selection")

    own = [name for name, value in vars(module).items() if opens(value) and value.__module__ == module.__name__]
    return [f"{module.__name__.removeprefix('bitwright.')}:{name}" for name in own]


def test_every_open_function_is_in_the_table() -> None:
    """A new phase enters the table, and with it the tests above."""
    modules = [
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(bitwright.__path__, "bitwright.")
        if not found.name.endswith(("__main__", "triton_kernels"))
    ]
    assert sorted(name for module in modules for name in _open_functions(module)) == sorted(
        phase.where for phase in PHASES
    )


def test_contributing_shows_the_table() -> None:
    """`python tests/phases.py` prints what CONTRIBUTING says."""
    assert table() in CONTRIBUTING.read_text(encoding="utf-8")
