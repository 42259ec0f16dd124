# SPDX-License-Identifier: MIT
"""The zoo for the terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from bitwright.zoo import Comparison, Reproduction, Row, TableRow


def rows_table(rows: Iterable[Row], others: Sequence[str]) -> RenderableType:
    """All rows with their published figures, and the names of bits without a row."""
    table = Table("row", "scheme", "MB", "G BOPs", "speed-up", "top-1 %", title="The published zoo (ImageNet)")
    for row in rows:
        speedup = "" if row.speedup is None else f"{row.speedup:.2f}x"
        table.add_row(row.name, row.title, f"{row.size_mb}", f"{row.bops_g:.0f}", speedup, f"{row.top1:.2f}")
    return Group(table, Text(f"Bits without a row: {', '.join(others)}."))


def row_table(result: Mapping[str, Any]) -> RenderableType:
    """One row and the bits of its layers."""
    table = Table("layer", "precision", title=str(result["name"]))
    for layer, precision in result["layers"].items():
        table.add_row(layer, precision)
    if "archive" not in result:
        return table
    figures = (
        f"{result['title']}: {result['size_mb']} MB, {result['bops_g']:.0f} G BOPs, top-1 {result['top1']:.2f} %\n"
        f"{result['archive']}: {result['link']}"
    )
    return Group(table, Text(figures)) if result["layers"] else Text(figures)


def comparison_dict(entry: TableRow) -> dict[str, Any]:
    """One row of the table as JSON values."""
    return {"row": entry.row.name, "size_mb": _figures(entry.size), "bops_g": _figures(entry.bops)}


def _figures(comparison: Comparison) -> dict[str, Any]:
    return {
        "published": comparison.published,
        "recomputed": comparison.recomputed,
        "agrees": comparison.agrees,
        "reason": comparison.reason,
    }


def comparison_table(entries: Iterable[TableRow]) -> RenderableType:
    """Published and recomputed figures; each reason is written once, below, under a number."""
    table = Table("row", "MB published", "ours", "G BOPs published", "ours", "why", title="Published and recomputed")
    numbers: dict[str, int] = {}
    for entry in entries:
        marks = []
        for what, comparison in (("MB", entry.size), ("BOPs", entry.bops)):
            if comparison.reason:
                text, _, value = comparison.reason.rpartition(": ")
                number = numbers.setdefault(text or comparison.reason, len(numbers) + 1)
                marks.append(f"{what} [{number}]" + (f" {value}" if text else ""))
        table.add_row(
            entry.row.name,
            f"{entry.size.published:.1f}",
            f"{entry.size.recomputed:.2f}",
            f"{entry.bops.published:.0f}",
            f"{entry.bops.recomputed:.2f}",
            Text(", ".join(marks)),
        )
    notes = "\n".join(f"[{number}] {text}" for text, number in numbers.items())
    return Group(table, Text(notes))


def reproduction_table(result: Reproduction) -> RenderableType:
    """The row, published beside measured."""
    title = f"{result.row.name} ({result.row.title})"
    table = Table("", "published (ImageNet)", f"measured ({result.data})", title=title)
    table.add_row("size, MB", f"{result.row.size_mb}", f"{result.size_mb:.2f}")
    table.add_row("BOPs, G", f"{result.row.bops_g:.0f}", f"{result.bops_g:.2f}")
    table.add_row("top-1, %", f"{result.row.top1:.2f}", f"{result.accuracy['top1_percent']:.2f}")
    table.add_row("top-5, %", "", f"{result.accuracy['top5_percent']:.2f}")
    table.add_row("test images", "50000", f"{result.accuracy.images}")
    used, total = result.training_images
    table.add_row("training images", "", f"{used} of {total}")
    return table
