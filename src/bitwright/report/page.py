# SPDX-License-Identifier: MIT
"""One HTML file that needs nothing else: text, tables and drawings, for screens of any width, without scripts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

from bitwright.overview import html_table

STYLE = """
:root { color-scheme: light dark; --line: #8884; --ink: #2563c9; --mark: #d1491b; --soft: #8886; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 60rem; padding: 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; line-height: 1.2; } h2 { font-size: 1.2rem; margin-top: 2rem; }
figure { margin: 1rem 0; } figcaption { font-size: .85rem; opacity: .8; }
svg { display: block; height: auto; max-width: 32rem; width: 100%; }
svg text { fill: currentColor; font: 12px system-ui, sans-serif; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; width: 100%; }
th, td { border-bottom: 1px solid var(--line); padding: .25rem .5rem; text-align: right; white-space: nowrap; }
th { overflow-wrap: normal; vertical-align: bottom; white-space: normal; }
th:first-child, td:first-child { min-width: 5rem; text-align: left; white-space: normal; }
@media (max-width: 30rem) { table { font-size: .8rem; } th, td { padding: .2rem; } }
dl { display: grid; gap: .2rem 1rem; grid-template-columns: minmax(6rem, auto) 1fr; }
dd { margin: 0; } dt { opacity: .8; }
details { border-bottom: 1px solid var(--line); padding: .4rem 0; }
summary { cursor: pointer; } summary b { font-weight: 600; }
.mark { color: var(--mark); font-weight: 600; }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole document."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading and what follows."""
    return "\n".join([f"<section>\n<h2>{escape(title)}</h2>", *parts, "</section>"])


def paragraph(text: str) -> str:
    """Plain text."""
    return f"<p>{escape(text)}</p>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[int] = ()) -> str:
    """Cells of plain text; on a narrow screen it scrolls by itself, and not the page.

    Args:
        head: Of the columns.
        rows: As many cells each.
        marked: Places of rows that stand out.
    """
    return f'<div class="scroll">{html_table(head, rows, marked)}</div>'


def facts(entries: Iterable[tuple[str, str]]) -> str:
    """Names and what is said of them."""
    return "<dl>" + "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in entries) + "</dl>"


def folded(summary: str, value: str, *parts: str, marked: bool = False) -> str:
    """What a tap opens: a name and a figure, and behind them the parts."""
    kind = ' class="mark"' if marked else ""
    return "\n".join(
        [f"<details><summary><b{kind}>{escape(summary)}</b> {escape(value)}</summary>", *parts, "</details>"]
    )


@dataclass(frozen=True)
class Point:
    """A point of a drawing.

    Attributes:
        x: Where.
        y: Likewise.
        error: Of y, drawn as a bar up and down.
        label: What a pointer or a reader is told.
        marked: Whether it stands out.
        joined: Whether a line comes from the point before.
    """

    x: float
    y: float
    error: float = 0.0
    label: str = ""
    marked: bool = False
    joined: bool = False


WIDTH, HEIGHT, LEFT, ABOVE, BELOW = 420, 256, 64, 20, 36
NAMES, FIGURES = 130, 56
"""Of bars: room for names, and for figures."""


def scatter(points: Sequence[Point], x_name: str, y_name: str, caption: str, *, logarithmic: bool = False) -> str:
    """Points with error bars over an axis; with `logarithmic`, those above zero over the decades."""
    shown = [point for point in points if not logarithmic or point.y > 0]
    if not shown:
        return ""

    def height(value: float) -> float:
        return math.log10(value) if logarithmic else value

    xs, ys = [point.x for point in shown], [height(point.y) for point in shown]
    if not logarithmic:
        ys += [point.y + sign * point.error for point in shown for sign in (-1, 1)]
    (x0, x1), (y0, y1) = _room(xs), _room(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        right, down = (x - x0) / (x1 - x0), 1 - (y - y0) / (y1 - y0)
        return LEFT + right * (WIDTH - LEFT - 10), ABOVE + down * (HEIGHT - ABOVE - BELOW)

    parts = [_axes((x0, x1), (y0, y1), x_name, y_name, logarithmic)]
    before: tuple[float, float] | None = None
    for point in shown:
        x, y = place(point.x, height(point.y))
        if point.joined and before is not None:
            parts.append(f'<path d="M{before[0]:.1f} {before[1]:.1f}L{x:.1f} {y:.1f}" stroke="var(--soft)"/>')
        before = x, y
        colour = "var(--mark)" if point.marked else "var(--ink)"
        if point.error and not logarithmic:
            top, bottom = (place(point.x, point.y + sign * point.error)[1] for sign in (1, -1))
            parts.append(f'<path d="M{x:.1f} {top:.1f}V{bottom:.1f}" stroke="{colour}"/>')
        size = 5 if point.marked else 3
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{colour}"><title>{escape(point.label)}</title></circle>'
        )
    return _figure(parts, HEIGHT, caption)


def _room(values: Sequence[float]) -> tuple[float, float]:
    """A range around values, never empty."""
    low, high = min(values), max(values)
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _axes(x: tuple[float, float], y: tuple[float, float], x_name: str, y_name: str, logarithmic: bool) -> str:
    right, bottom = WIDTH - 10, HEIGHT - BELOW
    parts = [f'<path d="M{LEFT} {ABOVE}V{bottom}H{right}" stroke="var(--soft)" fill="none"/>']
    for step in range(5):
        value = y[0] + (y[1] - y[0]) * step / 4
        at = bottom - (bottom - ABOVE) * step / 4
        text = f"{10**value if logarithmic else value:.3g}"
        parts.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{text}</text>')
        at = LEFT + (right - LEFT) * step / 4
        anchor = ("start", "middle", "middle", "middle", "end")[step]
        text = f"{x[0] + (x[1] - x[0]) * step / 4:.3g}"
        parts.append(f'<text x="{at:.1f}" y="{bottom + 14}" text-anchor="{anchor}">{text}</text>')
    parts.append(f'<text x="{right}" y="{HEIGHT - 4}" text-anchor="end">{escape(x_name)}</text>')
    parts.append(f'<text x="{LEFT}" y="12">{escape(y_name)}</text>')
    return "".join(parts)


def bars(values: Sequence[tuple[str, float, float, bool]], caption: str) -> str:
    """A horizontal bar for each (name, value, error, marked), from zero, with its error."""
    shown = [(name, max(value, 0.0), error, marked) for name, value, error, marked in values if math.isfinite(value)]
    largest = max((value + error for _, value, error, _ in shown), default=0.0) or 1.0
    parts = []
    for row, (name, value, error, marked) in enumerate(shown):
        y, unit = 22 * row, (WIDTH - NAMES - FIGURES) / largest
        colour = "var(--mark)" if marked else "var(--ink)"
        short = name if len(name) <= 20 else f"{name[:8]}…{name[-11:]}"
        parts.append(f'<text x="0" y="{y + 14}">{escape(short)}<title>{escape(name)}</title></text>')
        parts.append(f'<rect x="{NAMES}" y="{y + 4}" width="{unit * value:.1f}" height="12" fill="{colour}"/>')
        if error:
            left, right = (NAMES + unit * max(value + sign * error, 0.0) for sign in (-1, 1))
            parts.append(f'<path d="M{left:.1f} {y + 10}H{right:.1f}" stroke="currentColor" stroke-width="2"/>')
        parts.append(f'<text x="{NAMES + 6 + unit * (value + error):.1f}" y="{y + 14}">{value:.3g}</text>')
    return _figure(parts, 22 * len(shown) + 4, caption) if shown else ""


def histograms(low: float, high: float, first: Sequence[int], second: Sequence[int], caption: str) -> str:
    """Two histograms over the same axis: the first filled, the second a line; heights by the root, to show tails."""
    largest = math.sqrt(max([*first, *second, 1]))
    step, bottom = (WIDTH - 10) / len(first), 96
    parts = []
    line = []
    for place, (filled, drawn) in enumerate(zip(first, second, strict=True)):
        tall, level = 90 * math.sqrt(filled) / largest, bottom - 90 * math.sqrt(drawn) / largest
        parts.append(
            f'<rect x="{5 + step * place:.1f}" y="{bottom - tall:.1f}" width="{step - 1:.1f}" height="{tall:.1f}" '
            'fill="var(--soft)"/>'
        )
        line.append(f"{'ML'[place > 0]}{5 + step * place:.1f} {level:.1f}H{5 + step * (place + 1):.1f}")
    parts.append(f'<path d="{"".join(line)}" stroke="var(--ink)" stroke-width="1.5" fill="none"/>')
    parts.append(
        f'<text x="5" y="110">{low:.3g}</text><text x="{WIDTH - 5}" y="110" text-anchor="end">{high:.3g}</text>'
    )
    return _figure(parts, 114, caption)


def _figure(parts: Sequence[str], height: int, caption: str) -> str:
    drawing = f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(caption)}">{"".join(parts)}</svg>'
    return f"<figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"
