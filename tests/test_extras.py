# SPDX-License-Identifier: MIT
"""Who installs the package without extras has all that needs none, and is told in one line which extra the rest needs."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

from bitwright.errors import MissingLibraryError
from bitwright.extras import EXTRAS, installed, require
from slim_core import NEED

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "bitwright"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
WITH_TORCH = {"triton"}
"""Comes with builds of PyTorch for GPUs, and with no others."""
TVM = PACKAGE / "export" / "tvm"
"""Whose modules are imported by its exporter, which has asked for the library."""


def imported(module: Path) -> Iterator[str]:
    """The top names of all libraries that a module imports, in whatever place and form."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module).partition(".")[0]
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "import_module":
            yield getattr(node.args[0], "value", "bitwright").partition(".")[0]


def test_docstrings_name_the_error_of_a_missing_library() -> None:
    """Wherever they say what is raised without one; Triton, where there is none to install, is refused as its device is."""
    says = re.compile(r"^ {4,}(\w+Error\w*(?:, \w+)*): .*not installed", re.MULTILINE)
    found = {
        (module.name, error) for module in PACKAGE.rglob("*.py") for error in says.findall(module.read_text("utf-8"))
    }
    assert len(found) > 12
    assert {name for name, error in found if error != "MissingLibraryError"} == {"triton_steps.py"}


def distributions(requirements: list[str]) -> set[str]:
    """The names of what is required, those of extras of our own followed."""
    found = set()
    for text in requirements:
        if own := re.fullmatch(r"bitwright\[(.*)\]", text):
            found |= {
                name for extra in own[1].split(",") for name in distributions(PROJECT["optional-dependencies"][extra])
            }
        else:
            found.add(re.split(r"[<>=;\[ ]", text)[0].lower())
    return found


def libraries() -> set[str]:
    """All that is imported anywhere, but for Python's own."""
    found = {name for module in PACKAGE.rglob("*.py") for name in imported(module)}
    return found - sys.stdlib_module_names - {"bitwright"} - WITH_TORCH


def providers(module: str) -> set[str]:
    """The packages that bring a module, of those installed."""
    return {name.lower() for name in packages_distributions()[module]}


def test_the_core_requires_exactly_what_it_imports() -> None:
    """Of what is imported, that is no extra; not more, and not less."""
    core = libraries() - EXTRAS.keys()
    required = distributions(PROJECT["dependencies"])
    assert {name for module in core for name in providers(module) & required} == required
    assert [module for module in core if not providers(module) & required] == []


def test_every_optional_library_has_its_extra() -> None:
    """The extra that a message names installs what was missing."""
    assert EXTRAS.keys() <= libraries() | {
        "mlxtend",
        "pycocotools",
        "tensorboard",
        "wandb",
        "mlflow",
        "trackio",
    }  # found by name
    extras = {name: distributions(requirements) for name, requirements in PROJECT["optional-dependencies"].items()}
    for module, extra in EXTRAS.items():
        brought = providers(module) if installed(module) else {module}
        assert brought & extras[extra], f"the extra '{extra}' does not bring {module}"
    assert extras["all"] == set().union(*(extras[name] for name in (*EXTRAS.values(), "demo")))


def test_every_extra_is_on_the_page_that_tells_how_to_install() -> None:
    """Those for users, and no others: `dev` and `docs` are for who changes Bitwright."""
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = {name.strip(" `") for row in rows for name in row.split(",")}
    assert named == PROJECT["optional-dependencies"].keys() - {"dev", "docs"}


def test_who_imports_an_optional_library_asks_for_it() -> None:
    """By `require`, which says what to install; engines, by their runtime."""
    engines = {"ai_edge_litert", "openvino", "qonnx", "tvm"}
    asked_elsewhere = {"benchmark": engines, "export": {"flatbuffers"}}  # by `load_engine`; with LiteRT's schema
    found = set()
    for module in PACKAGE.rglob("*.py"):
        optional = set(imported(module)) & EXTRAS.keys()
        if module.is_relative_to(TVM) and module.name != "exporter.py":
            continue
        asked = set(re.findall(r'require\(\s*"(\w+)"', module.read_text(encoding="utf-8")))
        unasked = optional - asked - asked_elsewhere.get(module.relative_to(PACKAGE).parts[0], set())
        assert not unasked, f"{module}: add require({unasked})"
        found |= optional
    assert len(found) >= 8


def test_the_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says who needs what, and how to get it."""
    monkeypatch.setattr("bitwright.extras.find_spec", lambda name: None)
    expected = r"^a \.tflite file needs ai-edge-litert, which is not installed: pip install 'bitwright\[litert\]'\.$"
    with pytest.raises(MissingLibraryError, match=expected):
        require("ai_edge_litert", "a .tflite file")


def test_without_any_extra(tmp_path: Path) -> None:
    """Where no optional library is found, the whole way on one's own network and data works; the rest says what it needs."""
    assert set(NEED.values()) == {*EXTRAS.values(), "demo"}
    paths = os.pathsep.join([str(ROOT / "src"), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-W", "error", str(ROOT / "tests" / "slim_core.py"), str(tmp_path)],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    for command, (status, said) in json.loads(done.stdout).items():
        last = said.splitlines()[-1]
        assert status == 1, command
        assert last.startswith("MissingLibraryError: "), f"{command}: {said}"
        assert last.endswith(f"pip install 'bitwright[{NEED[command]}]'."), f"{command}: {said}"
