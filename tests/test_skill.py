# SPDX-License-Identifier: MIT
"""What the skill tells an assistant to type is there, with the options that it names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from bitwright.cli import app

SKILL = Path(__file__).parent.parent / "skills" / "bitwright" / "SKILL.md"
TEXT = SKILL.read_text(encoding="utf-8")
TOP: Any = typer.main.get_command(app)
COMMANDS = sorted(set(re.findall(r"`(bitwright [^`]+)`", TEXT)))


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """The command that some words name, and what follows."""
    command, rest = TOP, words
    while rest and hasattr(command, "commands") and not rest[0].startswith("-"):
        name = rest[0] if rest[0] in command.commands else "files"  # `bench FILE` is `bench files FILE`
        command, rest = command.commands[name], rest[rest[0] == name :]
    return command, rest


def test_it_has_what_tools_look_for() -> None:
    """A name, that of its folder, and a description, in front."""
    front = yaml.safe_load(TEXT.split("---\n")[1])
    assert front.keys() == {"name", "description"}
    assert front["name"] == SKILL.parent.name
    assert 100 < len(front["description"]) <= 1024


def test_it_names_many_commands() -> None:
    """The test below looks at something."""
    assert len(COMMANDS) > 15


@pytest.mark.parametrize("line", COMMANDS)
def test_commands_are_there(line: str) -> None:
    """Whole lines parse; a name alone is that of a command."""
    words = [word for word in shlex.split(line)[1:] if word != "COMMAND"]
    command, rest = command_of(words)
    if not hasattr(command, "commands") and rest and "..." not in rest:
        command.make_context(line, rest)


def test_options_are_there() -> None:
    """Every option in the text is one of a command that the text names."""
    commands = [command_of(shlex.split(line)[1:])[0] for line in COMMANDS]
    known = {
        name for command in commands for option in command.params for name in (*option.opts, *option.secondary_opts)
    }
    assert set(re.findall(r"(?<=[\s`])--[a-z][a-z-]*", TEXT)) <= known | {"--version"}


def test_refusals_are_those_of_the_code() -> None:
    """Each refusal that the text explains begins a message."""
    sources = "".join(path.read_text(encoding="utf-8") for path in (SKILL.parents[2] / "src").rglob("*.py"))
    refusals = re.findall(r"^- `([a-z ]+)`", TEXT, re.MULTILINE)
    assert len(refusals) >= 4
    for refusal in refusals:
        assert refusal in sources
