# SPDX-License-Identifier: MIT
"""The messages that docs/troubleshooting.md explains are those that the code gives."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^<!-- messages -->\n```\n(.*?)^```", re.MULTILINE | re.DOTALL)


def rendered(node: ast.AST) -> str:
    """A string of the code, with … for each value in it."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(map(rendered, node.values))
    return "…"


def messages() -> list[str]:
    """All of the page."""
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return [line for block in BLOCK.findall(page) for line in block.splitlines()]


@pytest.fixture(scope="module")
def known() -> list[str]:
    """Every string of the code that has words in it."""
    strings = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant | ast.JoinedStr) and " " in (text := rendered(node)):
                strings.append(text)
    return strings


def test_messages_are_those_of_the_code(known: list[str]) -> None:
    """Word for word; a reason that one message carries for another follows its head."""
    assert len(messages()) >= 20
    for message in messages():
        heads = [text[:-1] for text in known if text.endswith(": …") and message.startswith(text[:-1])]
        assert message in known or any(message.removeprefix(head) in known for head in heads), message
