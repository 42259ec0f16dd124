# SPDX-License-Identifier: MIT
"""What a value shows of itself: a line at the prompt, and a table in a notebook, never all that it holds."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Overview:
    """A value in short.

    Attributes:
        name: What it is called, or is of.
        facts: What there is to say of it, each in some words.
        head: The columns of its table.
        rows: As many cells each.
    """

    name: str
    facts: Sequence[str]
    head: Sequence[str]
    rows: Sequence[Sequence[str]]


class Overviewed(ABC):
    """What has an overview. Dataclasses keep it with `repr=False`."""

    @abstractmethod
    def overview(self) -> Overview:
        """What it shows of itself."""

    def __repr__(self) -> str:
        shown = self.overview()
        return f"<{type(self).__name__} {shown.name}: {', '.join(shown.facts)}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        shown = self.overview()
        title = f"<b>{type(self).__name__} {escape(shown.name)}</b>: {escape(', '.join(shown.facts))}"
        rows = f"<details><summary>{title}</summary>{html_table(shown.head, shown.rows)}</details>"
        return rows if shown.rows else f"<p>{title}</p>"


def html_table(head: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[int] = ()) -> str:
    """Cells of plain text.

    Args:
        head: Of the columns.
        rows: As many cells each.
        marked: Places of rows that stand out, by the class `mark`.
    """
    lines = ["<tr>" + "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head) + "</tr>"]
    for place, row in enumerate(rows):
        kind = ' class="mark"' if place in marked else ""
        lines.append(f"<tr{kind}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    return "<table>\n" + "\n".join(lines) + "\n</table>"


def counted(number: int, what: str) -> str:
    """A number of things.

    >>> counted(1, "layer"), counted(21, "layer")
    ('1 layer', '21 layers')
    """
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def shape_text(shape: Sequence[int]) -> str:
    """As people write it.

    >>> shape_text((3, 224, 224))
    '3 x 224 x 224'
    """
    return " x ".join(map(str, shape))
