# SPDX-License-Identifier: MIT
"""The blocks of code of the documents, and which of them no test runs, with the reason that the document itself gives.

A comment before a block says that it is not run: `<!-- not run: it needs ImageNet -->`. A block of Python whose first line has a
name after the language (`python several.py`) is a file of the reader's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "skills" / "bitwright" / "SKILL.md")

_BLOCK = re.compile(
    r"(?:^ *<!-- not run: ([^\n]*) -->\n)?^ *```([\w{}-]*) ?([\w.]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A block of code.

    Attributes:
        document: Its path below the project's root.
        line: Where it begins.
        reason: Why no test runs it; "" where one does.
        language: What it says it is, for instance `python`; "" for commands, and for what they print.
        file: The name of the reader's file that it is.
        code: What stands in it.
    """

    document: str
    line: int
    reason: str
    language: str
    file: str
    code: str

    @property
    def commands(self) -> list[str]:
        """Its lines that are typed at a prompt, put together where they go on after a backslash."""
        if self.language:
            return []
        lines = (line.partition(" # ")[0].strip() for line in self.code.replace("\\\n", " ").splitlines())
        return [line for line in lines if line.split(" ")[0] in PROGRAMS and "..." not in line]


PROGRAMS = ("bitwright", "python", "torchrun", "pip", "make", "pytest", "gdown", "export", "python3", ".venv/bin/pip")
"""What lines of commands begin with."""


def blocks(path: Path) -> list[Block]:
    """The blocks of a document, in order."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(
            str(path.relative_to(ROOT)),
            text.count("\n", 0, found.start()) + 1,
            found[1] or "",
            found[2],
            found[3],
            found[4],
        )
        for found in _BLOCK.finditer(text)
    ]
