# SPDX-License-Identifier: MIT
"""What the documents say can be typed: every command line of theirs parses, and the zoo's table is the publisher's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import typer.main

from bitwright.cli import app
from bitwright.cli.quant_flags import parse
from bitwright.zoo import rows
from documents import DOCUMENTS, ROOT, blocks


def command_lines(document: Path) -> list[list[str]]:
    """The words of every line in a block of commands that runs one of ours."""
    lines = (line for block in blocks(document) for line in block.commands)
    return [shlex.split(line) for line in lines if line.startswith(("bitwright ", "python quant_train.py "))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_command_line_parses(document: Path) -> None:
    """All commands, options and numbers are known, and nothing that is needed is left out."""
    for words in command_lines(document):
        if words[0] == "python":
            parse(words[2:])
            continue
        command, rest = typer.main.get_command(app), words[1:]
        while hasattr(command, "commands") and not rest[0].startswith("-"):
            name = rest[0] if rest[0] in command.commands else "files"  # `bench FILE` is `bench files FILE`
            command, rest = command.commands[name], rest[rest[0] == name :]
        if not hasattr(command, "commands"):
            command.make_context(" ".join(words[:2]), rest)


def test_the_command_lines_are_found() -> None:
    """The test above looks at something."""
    lines = command_lines(ROOT / "docs" / "model_zoo.md")
    assert len([words for words in lines if words[:2] == ["python", "quant_train.py"]]) == 3
    assert len(lines) > 15


def test_the_documents_table_is_the_publishers() -> None:
    """27 rows with their figures and links."""
    text = (ROOT / "docs" / "model_zoo.md").read_text(encoding="utf-8")
    for row in rows():
        speedup = "" if row.speedup is None else f"{row.speedup:.2f}x"
        figures = f"{row.size_mb} | {row.bops_g:.0f} | {speedup} | {row.top1:.2f}"
        link = f"[{row.archive.removesuffix('.tar.gz')}]({row.link})"
        assert f"| `{row.name}` | {row.title} | {figures} | {link} |" in text
    assert len(set(re.findall(r"https://drive\.google\.com/file/d/\S+?/view", text))) == 27
