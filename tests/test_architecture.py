# SPDX-License-Identifier: MIT
"""The rules that keep the code base easy to walk: imports point left, modules are short, public names are listed."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src"
PACKAGE = SOURCE / "bitwright"
MODULES = sorted(PACKAGE.rglob("*.py"))
PACKAGES = [module for module in MODULES if module.name == "__init__.py"]

# A module may import from its own part, and from those before it.
ORDER = (
    "errors",
    "extras",
    "lazy",
    "overview",
    "reading",
    "kinds",
    "decode",
    "files",
    "progress",
    "raised",
    "processes",
    "imported",
    "returned",
    "scheme",
    "cost",
    "data",
    "task",
    "graph",
    "quantizer",
    "sensitivity",
    "allocation",
    "training",
    "reconstruction",
    "integer",
    "export",
    "benchmark",
    "auto",
    "zoo",
    "report",
    "demo",
    "cli",
)
FRONT = ("__init__", "__main__")
"""The package itself and `python -m bitwright`, which show all parts."""

MAX_LINES = 400


def _path(module: Path) -> str:
    return str(module.relative_to(SOURCE))


def _part(module: Path) -> str:
    """`graph` for bitwright/graph/capture.py, `errors` for bitwright/errors.py."""
    return module.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _rank(part: str) -> int:
    return len(ORDER) if part in FRONT else ORDER.index(part)


@cache
def _parsed(module: Path) -> ast.Module:
    """What a module says, which several tests ask."""
    return ast.parse(module.read_text(encoding="utf-8"))


def _imported_parts(module: Path) -> Iterator[tuple[int, str]]:
    """The line and part of every import of bitwright, wherever in the module it stands."""
    for node in ast.walk(_parsed(module)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            head, _, rest = name.partition(".")
            if head == "bitwright":
                part = rest.partition(".")[0]
                # What is no part is a name of the package's own __init__, as `load` in `from bitwright import load`.
                yield node.lineno, part if part in ORDER else "__init__"


def test_there_are_modules() -> None:
    """The tests below look at the real package."""
    assert PACKAGE / "errors.py" in MODULES


def test_all_forms_of_import_are_seen(tmp_path: Path) -> None:
    """An import counts in any form and place, and so does one through the package itself."""
    module = tmp_path / "module.py"
    module.write_text(
        "import os, bitwright.zoo\nfrom bitwright import cli, load\nfrom bitwright.graph.nodes import Conv2d\n"
        "def late():\n    from bitwright.errors import DataError\n"
    )
    assert sorted(_imported_parts(module)) == [(1, "zoo"), (2, "__init__"), (2, "cli"), (3, "graph"), (5, "errors")]


def test_modules_have_their_place() -> None:
    """Every module belongs to a part that has a place in the order, and none is a drawer called utils."""
    for module in MODULES:
        assert _part(module) in (*ORDER, *FRONT), f"give '{_part(module)}' a place in ORDER"
        assert "utils" not in module.stem


def test_imports_point_left() -> None:
    """No module imports from a part that comes after its own."""
    wrong = [
        f"{_path(module)}:{line}: '{_part(module)}' imports '{part}'"
        for module in MODULES
        for line, part in _imported_parts(module)
        if part != _part(module) and _rank(part) >= _rank(_part(module))
    ]
    assert wrong == []


def test_no_command_waits_for_torchvision() -> None:
    """torchvision, which brings the compiler of PyTorch along and takes about as long to import, waits for who needs it."""
    for module in MODULES:
        statements = _parsed(module).body
        imported = {node.module for node in statements if isinstance(node, ast.ImportFrom) and node.module} | {
            alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names
        }
        found = {name.partition(".")[0] for name in imported}
        assert found.isdisjoint({"pytorchcv", "timm", "torchvision"}), _path(module)


@pytest.mark.parametrize("part", ["training", "reconstruction", "integer", "export"])
def test_what_makes_integers_does_not_know_who_chose_the_bits(part: str) -> None:
    """A scheme is all that search and training share."""
    read = {other for module in MODULES if _part(module) == part for _, other in _imported_parts(module)}
    assert read.isdisjoint({"sensitivity", "allocation"})


def _dotted(module: Path) -> str:
    return ".".join(module.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__")


def _imports(module: Path) -> set[str]:
    """The modules of bitwright that a module names in imports, in any place: late ones and those for types alone count."""
    known = {_dotted(other) for other in MODULES}
    found: set[str] = set()
    for node in ast.walk(_parsed(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= submodules or {node.module}
    return found - {_dotted(module)}


def test_imports_make_no_circle() -> None:
    """The modules can be put in an order in which each imports only from those before it."""
    waiting = {
        _dotted(module): _imports(module) for module in MODULES if module.stem not in FRONT or module.parent != PACKAGE
    }
    before = len(waiting) + 1
    while len(waiting) < before:
        before = len(waiting)
        read = set().union(*waiting.values())
        # Neither what imports nothing that is left nor what nothing imports is on a circle.
        waiting = {
            module: needs & set(waiting) for module, needs in waiting.items() if needs & set(waiting) and module in read
        }
    assert waiting == {}


def test_modules_are_short_and_licensed() -> None:
    """Every module opens with its licence and a docstring, and fits in 400 lines."""
    for module in MODULES:
        lines = module.read_text(encoding="utf-8").splitlines()
        assert lines[0] == "# SPDX-License-Identifier: MIT", _path(module)
        assert len(lines) <= MAX_LINES, _path(module)
        assert ast.get_docstring(_parsed(module)), _path(module)


@pytest.mark.parametrize("module", PACKAGES, ids=_path)
def test_public_names(module: Path) -> None:
    """Every package lists its public names in alphabetical order, once each, and has them all."""
    package = importlib.import_module(".".join(module.parent.relative_to(SOURCE).parts))
    names = package.__all__
    assert list(names) == sorted(set(names))
    assert [name for name in names if not hasattr(package, name)] == []
