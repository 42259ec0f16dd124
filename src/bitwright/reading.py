# SPDX-License-Identifier: MIT
"""Reading files that may be damaged or hostile: whatever they hold, reading ends at once, with an error that names them.

What is no regular file is refused before it is opened: a pipe may never end, and a device may do anything. JSON and YAML are
bounded in depth, and YAML has neither aliases (a few lines of which unfold to gigabytes) nor tags.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any, NoReturn

import yaml

from bitwright.errors import FileFormatError, reason, shown

MAX_DEPTH = 64
"""Of nested lists and mappings: no format of ours has a tenth of it."""
MAX_YAML_BYTES = 2**20
"""Of a YAML file: a scheme of 10,000 layers takes a third of it, and the parser a minute for ten times as much."""
MAX_DIGITS = 64
"""Of a whole number in YAML: Python cannot even write one of some thousands."""

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISSOCK, "a socket"),
)


def kind_of(mode: int) -> str:
    """What a file is, by the mode that `os.stat` gives, in words.

    >>> kind_of(os.stat("/dev/null").st_mode), kind_of(os.stat(os.curdir).st_mode)
    ('a device', 'a folder')
    """
    return next((name for test, name in _KINDS if test(mode)), "a regular file")


def require_file(path: str | Path, what: str = "") -> None:
    """Refuse what is missing, and what is no regular file.

    Args:
        path: The path of the file.
        what: It should hold, for the message: "an allocation".

    Raises:
        FileFormatError: It says what is there instead.
    """
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise FileFormatError(f"cannot read {_place(path, what)}: {reason(error)}.") from error
    if not stat.S_ISREG(mode):
        raise FileFormatError(f"cannot read {_place(path, what)}: expected a regular file, got {kind_of(mode)}.")


def _place(path: str | Path, what: str) -> str:
    return f"{what} from '{path}'" if what else f"'{path}'"


def read_bytes(path: str | Path, what: str = "") -> bytes:
    """All of a regular file.

    Raises:
        FileFormatError: If it is missing, cannot be read, or is something else.
    """
    require_file(path, what)
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise FileFormatError(f"cannot read {_place(path, what)}: {reason(error)}.") from error


def read_text(path: str | Path, what: str = "") -> str:
    """All of a regular file in UTF-8.

    Raises:
        FileFormatError: If it is missing, cannot be read, or is something else.
    """
    try:
        return read_bytes(path, what).decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileFormatError(
            f"cannot read {_place(path, what)}: expected text in UTF-8, but {error.reason}."
        ) from error


def read_json(path: str | Path, what: str) -> Any:
    """Read JSON.

    Args:
        path: The path of the file.
        what: It should hold, for the message: "an allocation".

    Raises:
        FileFormatError: If the file is missing, is something else, or is no JSON.
    """
    return parse_json(read_text(path, what), _place(path, what))


def parse_json(text: str | bytes, what: str) -> Any:
    """The value that JSON stands for.

    Args:
        text: The JSON.
        what: It should hold and where it stands, for the message: "an allocation from 'x.json'".

    Raises:
        FileFormatError: If it is no JSON, is nested deeper than any format of ours, or has a number of thousands of digits.

    >>> parse_json('{"bits": [2, 4]}', "bits from a text")
    {'bits': [2, 4]}
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"cannot read {what}: {_fault(error)}.") from error
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            raise FileFormatError(f"cannot read {what}: it is nested more than {MAX_DEPTH} deep.")
        level = [
            child
            for parent in level
            if isinstance(parent, dict | list)
            for child in (parent.values() if isinstance(parent, dict) else parent)
        ]
    return value


def parse_yaml(text: str, what: str) -> Any:
    """The value that YAML stands for.

    Args:
        text: The YAML.
        what: It should hold and where it stands, for the message: "a scheme from 'x.yaml'".

    Raises:
        FileFormatError: If it is no YAML, is too long or nested too deep, or has an alias, a tag, or a key twice.

    >>> parse_yaml("layers: {stem: W8A8}", "a scheme from a text")
    {'layers': {'stem': 'W8A8'}}
    """
    if len(text) > MAX_YAML_BYTES:
        raise FileFormatError(f"cannot read {what}: it has more than {MAX_YAML_BYTES:,} characters.")
    try:
        # The values are those of the safe loader, which makes no objects.
        return yaml.load(text, _PlainLoader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the latter two from dates and numbers that are none
        raise FileFormatError(f"cannot read {what}: {_fault(error)}.") from error


class _PlainLoader(yaml.SafeLoader):
    """YAML of mappings, lists and plain values."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            self._refuse("aliases are not read", event.start_mark)
        if getattr(event, "tag", None) is not None:
            self._refuse("tags are not read", event.start_mark)
        if self._depth >= MAX_DEPTH:
            self._refuse(f"it is nested more than {MAX_DEPTH} deep", event.start_mark)
        self._depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self._depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    self._refuse(f"the key {shown(key.value)} appears twice", key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        if len(node.value) > MAX_DIGITS:
            self._refuse(f"a number has more than {MAX_DIGITS} digits", node.start_mark)
        return super().construct_yaml_int(node)

    def _refuse(self, fault: str, mark: Any) -> NoReturn:
        raise yaml.MarkedYAMLError(problem=fault, problem_mark=mark)


_PlainLoader.add_constructor("tag:yaml.org,2002:int", _PlainLoader.construct_yaml_int)


def _fault(error: Exception) -> str:
    """What the parser says."""
    if isinstance(error, RecursionError):
        return f"it is nested more than {MAX_DEPTH} deep"
    if isinstance(error, yaml.MarkedYAMLError):
        line = "" if error.problem_mark is None else f" (line {error.problem_mark.line + 1})"
        return f"{error.problem or error.context}{line}"
    return reason(error)
