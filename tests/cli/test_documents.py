# SPDX-License-Identifier: MIT
"""What the documents say can be typed: every command line of theirs parses, and the zoo's table is the publisher's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
import typer.main

from bitwright.cli import app
from bitwright.cli.quant_flags import parse
from bitwright.zoo import rows
from cli.conftest import Command
from cli.networks import small

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^ *```\w*\n(.*?)^ *```", re.MULTILINE | re.DOTALL)


def command_lines(document: Path) -> list[list[str]]:
    """The words of every line in a block of code that runs one of our commands; lines go on after a backslash."""
    found = []
    for block in BLOCK.findall(document.read_text(encoding="utf-8")):
        for line in block.replace("\\\n", " ").splitlines():
            words = line.split("#")[0].strip()
            if words.startswith(("bitwright ", "python quant_train.py ")) and "..." not in words and "…" not in words:
                found.append(shlex.split(words))
    return found


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


SMALL = {
    "pytorchcv:resnet18": ["cli.networks:small", "--image-size", "28", "--channels", "1"],
    "my.models:net": ["cli.networks:small", "--image-size", "28"],
    "--pretrained": [],
    "imagefolder:/data/imagenet": ["mnist-5k"],
    "imagefolder:pictures": ["mnist-5k"],
}
"""What stands for networks and images of the README that not everybody has."""


@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_order(
    bitwright: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each reads what those before wrote: nothing else is there but the weights of the first."""
    pytest.importorskip("openvino")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    torch.save(small().state_dict(), "net.pth")
    lines = [words[1:] for words in command_lines(ROOT / "README.md")]
    assert [words[0] for words in lines].count("export") == 3
    for words in lines:
        if words[0] in ("demo", "zoo"):  # which have tests of their own
            continue
        # A network that was not trained keeps no accuracy: any drop will do.
        typed = ["99%" if word == "1%" else word for part in words for word in SMALL.get(part, [part])]
        done = bitwright(*typed)
        assert done.status == 0, (typed, done.err)
