# SPDX-License-Identifier: MIT
"""The zoo's table: a row for each scheme, for the terminal, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

from bitwright.task import Score


@dataclass(frozen=True)
class Row:
    """One scheme of one model, as measured.

    Attributes:
        scheme: Its name, `float` for the baseline.
        size_mb: The size of the weights by the formula (all parameters, for float), in units of 2**20 bytes.
        file_mb: The size of the file on disk, likewise.
        bops_g: Bit operations for one image, in units of 10**9.
        speedup: Over the float model in the same engine, or None where it was not measured.
        score: The score of the lowered integer model (of the float model, for `float`), the task's leading one.
        exact_images: Images whose logits all were equal in every engine and at every level, None for float.
        images: Images that were compared.
    """

    scheme: str
    size_mb: float
    file_mb: float
    bops_g: float
    speedup: float | None
    score: float
    exact_images: int | None
    images: int

    def cells(self, score: Score) -> tuple[str, ...]:
        """As text, one for each of the table's columns."""
        exact = "" if self.exact_images is None else f"{self.exact_images:,} of {self.images:,}"
        return (
            self.scheme,
            f"{self.size_mb:.3f}",
            f"{self.file_mb:.3f}",
            f"{self.bops_g:.3f}",
            "" if self.speedup is None else f"{self.speedup:.2f}x",
            f"{self.score:.{score.digits}f}",
            exact,
        )


@dataclass(frozen=True)
class RowTable:
    """Rows with what they were measured on.

    Attributes:
        title: Model and data.
        score: What the rows are judged by.
        rows: In order.
        facts: How it was measured: seeds, versions, the machine.
    """

    title: str
    score: Score
    rows: Sequence[Row]
    facts: dict[str, Any]

    @property
    def columns(self) -> tuple[str, ...]:
        """Their headings."""
        return ("Scheme", "Model size (MB)", "File (MB)", "BOPs (G)", "Speed-up", self.score.heading, "Exact logits")

    def to_dict(self) -> dict[str, Any]:
        rows = [
            {self.score.key if key == "score" else key: value for key, value in asdict(row).items()}
            for row in self.rows
        ]
        return {"title": self.title, "rows": rows, **self.facts}

    def markdown(self) -> str:
        """A pipe table; numbers stand right."""
        lines = ["| " + " | ".join(self.columns) + " |", "| --- |" + " ---: |" * (len(self.columns) - 1)]
        lines += ["| " + " | ".join(row.cells(self.score)) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"

    def rich(self) -> Table:
        """For the terminal."""
        table = Table(self.columns[0], title=self.title, title_justify="left")
        for column in self.columns[1:]:
            table.add_column(column, justify="right")
        for row in self.rows:
            table.add_row(*row.cells(self.score))
        return table
