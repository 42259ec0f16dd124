# SPDX-License-Identifier: MIT
"""Hostile files: reading ends at once, and the error names the file."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bitwright.errors import FileFormatError
from bitwright.graph import Graph
from bitwright.integer import load
from bitwright.reading import MAX_DEPTH, MAX_YAML_BYTES, parse_json, parse_yaml
from bitwright.scheme import Scheme
from bitwright.sensitivity import SensitivityTable

READERS: dict[str, Callable[[Path], object]] = {
    "graph": Graph.load, "any": load, "json": SensitivityTable.load, "yaml": Scheme.load,
}  # fmt: skip
SECONDS = 5.0
BOMB = "a: &a [x, x]\n" + "\n".join(
    f"{after}: &{after} [*{before}, *{before}]"
    for before, after in zip("abcdefghijklmnopqrstuvwxy", "bcdefghijklmnopqrstuvwxyz", strict=True)
)


def refused(read: Callable[[Path], object], path: Path) -> str:
    """The message, which names the file and comes soon."""
    begin = time.monotonic()
    with pytest.raises(FileFormatError) as caught:
        read(path)
    assert time.monotonic() - begin < SECONDS
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 1000
    return str(caught.value)


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("kind", "words"), [("pipe", "a pipe"), ("zero", "a device"), ("folder", "a folder"), ("no", "No such")]
)
def test_only_regular_files_are_opened(reader: str, kind: str, words: str, tmp_path: Path) -> None:
    """A pipe that nobody writes to, a device without end, a folder, nothing: refused before they are opened."""
    path = tmp_path / "given"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "zero":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    assert words in refused(READERS[reader], path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (BOMB, "aliases are not read"),
        ("layers: {a: W4A4, a: W8A8}\nname: x\n", "the key 'a' appears twice"),
        ("name: !!python/object/apply:os.getcwd []\nlayers: {}\n", "tags are not read"),
        ("name: !!timestamp x\nlayers: {}\n", "tags are not read"),
        ("[" * 100_000, f"more than {MAX_DEPTH} deep"),
        ("{a: " * 1_000 + "}" * 1_000, f"more than {MAX_DEPTH} deep"),
        ("name: x\nlayers: {a: " + "9" * 20_000 + "}\n", "more than 64 digits"),
        ("name: x\nlayers: {a: 0x" + "f" * 20_000 + "}\n", "more than 64 digits"),
        ("name: 2001-99-99\nlayers: {}\n", "month"),
        ("name: " + "1:" * 300 + "1.5\nlayers: {}\n", "large"),
        ("name: x\nlayers: {}\n" + "#" * MAX_YAML_BYTES, "more than 1,048,576 characters"),
        ("a: [", "expected the node content"),
    ],
)  # fmt: skip
def test_hostile_yaml(text: str, words: str, tmp_path: Path) -> None:
    """What unfolds, calls, nests, or counts without end."""
    (tmp_path / "scheme.yaml").write_text(text)
    assert words in refused(Scheme.load, tmp_path / "scheme.yaml")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 100_000, f"more than {MAX_DEPTH} deep"),
        ("[" * 200 + "]" * 200, f"more than {MAX_DEPTH} deep"),
        ('{"a": ' * 200 + "1" + "}" * 200, f"more than {MAX_DEPTH} deep"),
        ('{"seed": ' + "9" * 20_000 + "}", "digits"),
        ('{"seed": ', "Expecting value"),
        ("", "got an empty file"),
    ],
)
def test_hostile_json(text: str, words: str, tmp_path: Path) -> None:
    """The same in JSON, alone and in the header of a safetensors file."""
    (tmp_path / "table.json").write_text(text)
    assert words in refused(SensitivityTable.load, tmp_path / "table.json")
    (tmp_path / "model").write_bytes(len(text).to_bytes(8, "little") + text.encode())
    refused(load, tmp_path / "model")


def test_plain_values_are_those_of_the_parsers() -> None:
    """What is harmless reads as it always does."""
    value = {"name": "x", "list": [1, 2.5, None, True, "a: b"], "map": {"a": {"b": []}}}
    assert parse_json(json.dumps(value), "a value") == value
    assert parse_yaml("name: x\nlist: [1, 2.5, null, true, 'a: b']\nmap:\n  a: {b: []}\n", "a value") == value
