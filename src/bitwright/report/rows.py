# SPDX-License-Identifier: MIT
"""The zoo's table: a row for each scheme, for the terminal, Markdown and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.table import Table

COLUMNS = ("Scheme", "Model size (MB)", "File (MB)", "BOPs (G)", "Speed-up", "Top-1 (%)", "Exact logits")


@dataclass(frozen=True)
class Row:
    """One scheme of one model, as measured.

    Attributes:
        scheme: Its name, `float` for the baseline.
        size_mb: Of the weights by the formula (all parameters, for float), in units of 2**20 bytes.
        file_mb: Of the file on disk, likewise.
        bops_g: Bit operations for one image, in units of 10**9.
        speedup: Over the float model in the same engine, or None where it was not measured.
        top1_percent: Of the lowered integer model (of the float model, for `float`).
        exact_images: Images whose logits all were equal in every engine and at every level, None for float.
        images: Images that were compared.
    """

    scheme: str
    size_mb: float
    file_mb: float
    bops_g: float
    speedup: float | None
    top1_percent: float
    exact_images: int | None
    images: int

    def cells(self) -> tuple[str, ...]:
        exact = "" if self.exact_images is None else f"{self.exact_images:,} of {self.images:,}"
        return (
            self.scheme,
            f"{self.size_mb:.3f}",
            f"{self.file_mb:.3f}",
            f"{self.bops_g:.3f}",
            "" if self.speedup is None else f"{self.speedup:.2f}x",
            f"{self.top1_percent:.2f}",
            exact,
        )


@dataclass(frozen=True)
class RowTable:
    """Rows with what they were measured on.

    Attributes:
        title: Model and data.
        rows: In order.
        facts: How it was measured: seeds, versions, the machine.
    """

    title: str
    rows: Sequence[Row]
    facts: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {"title": self.title, "rows": [asdict(row) for row in self.rows], **self.facts}

    def markdown(self) -> str:
        """A pipe table; numbers stand right."""
        lines = ["| " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * (len(COLUMNS) - 1)]
        lines += ["| " + " | ".join(row.cells()) + " |" for row in self.rows]
        return "\n".join(lines) + "\n"

    def rich(self) -> Table:
        """For the terminal."""
        table = Table(COLUMNS[0], title=self.title, title_justify="left")
        for column in COLUMNS[1:]:
            table.add_column(column, justify="right")
        for row in self.rows:
            table.add_row(*row.cells())
        return table
