# SPDX-License-Identifier: MIT
"""What lowering proved, on one screen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from bitwright.integer import IntegerModel


def lowering_summary(model: IntegerModel) -> dict[str, Any]:
    """The facts of all layers together."""
    facts = list(model.facts.values())

    def total(key: str) -> int:
        return sum(int(fact.get(key, 0)) for fact in facts)

    unsafe = [name for name, fact in model.facts.items() if fact.get("avx2_safe") is False]
    return {
        "model": model.model,
        "scheme": model.scheme.name,
        "layers": len(model.layers()),
        "channels": total("channels"),
        "theorem_a": total("theorem_a"),
        "theorem_b": total("theorem_b"),
        "exhaustive": total("exhaustive"),
        "channels_moved": total("channels_moved"),
        "most_candidates": max((int(fact.get("most_candidates", 0)) for fact in facts), default=0),
        "largest_relative_change": max(
            (float(fact.get("largest_relative_change", 0.0)) for fact in facts), default=0.0
        ),
        "largest_accumulator": max((int(fact.get("largest_accumulator", 0)) for fact in facts), default=0),
        "layers_unsafe_on_avx2": unsafe,
        "narrowed": {
            name: {
                key: fact[key] for key in ("channels_narrowed", "channels", "weight_error_before", "weight_error_after")
            }
            for name, fact in model.facts.items()
            if fact.get("channels_narrowed")
        },
    }


def lowering_table(summary: Mapping[str, Any]) -> Table:
    """The same for the terminal."""
    title = f"{summary['model']}, {summary['scheme']}: every channel proved"
    table = Table(show_header=False, title=title, title_justify="left")
    table.add_column()
    table.add_column(justify="right")
    table.add_row("layers", f"{summary['layers']}")
    table.add_row("channels with a multiplier or logits", f"{summary['channels']:,}")
    table.add_row("  proved by theorem A (shift bound)", f"{summary['theorem_a']:,}")
    table.add_row("  proved by theorem B (thresholds)", f"{summary['theorem_b']:,}")
    table.add_row("  proved on every input", f"{summary['exhaustive']:,}")
    table.add_row("  weight scale moved for a proof", f"{summary['channels_moved']:,}")
    table.add_row("most multipliers tried for a channel", f"{summary['most_candidates']:,}")
    table.add_row("largest change of a multiplier", f"{summary['largest_relative_change']:.2g}")
    table.add_row("largest accumulator", f"{summary['largest_accumulator']:,}")
    unsafe = len(summary["layers_unsafe_on_avx2"])
    table.add_row("layers that need VNNI or NEON to be exact", f"{unsafe}")
    if summary["narrowed"]:
        changed = summary["narrowed"].values()
        table.add_row("layers narrowed for 16-bit sums", f"{len(changed)}")
        table.add_row("  channels", f"{sum(fact['channels_narrowed'] for fact in changed):,}")
        worst = max(changed, key=lambda fact: fact["weight_error_after"])
        before, after = worst["weight_error_before"], worst["weight_error_after"]
        table.add_row("  largest error of their weights", f"{100 * after:.2f} %, was {100 * before:.2f} %")
    if "accuracy" in summary:
        for when, accuracy in summary["accuracy"].items():
            table.add_row(f"top-1 {when} narrowing", f"{accuracy['top1_percent']:.2f} %")
    if "size_mb" in summary:
        table.add_row("model size by the formula (MB)", f"{summary['size_mb']:.3f}")
        table.add_row("file (MB)", f"{summary['file_mb']:.3f}")
    return table
