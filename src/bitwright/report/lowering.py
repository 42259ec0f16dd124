# SPDX-License-Identifier: MIT
"""What lowering proved, on one screen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

from rich.table import Table

from bitwright.benchmark import environment
from bitwright.export import Target
from bitwright.integer import IntegerModel
from bitwright.task import Scores


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
        "channels_rescaled": total("channels_rescaled"),
        "most_candidates": max((int(fact.get("most_candidates", 0)) for fact in facts), default=0),
        "largest_relative_change": max(
            (float(fact.get("largest_relative_change", 0.0)) for fact in facts), default=0.0
        ),
        "largest_accumulator": max((int(fact.get("largest_accumulator", 0)) for fact in facts), default=0),
        "layers_unsafe_on_avx2": unsafe,
        "narrowed": _chosen(model, "channels_narrowed", _WEIGHTS),
        "seven_bit_inputs": _chosen(model, "seven_bit_tensor", _ACTIVATIONS),
    }


_COMMON = ("logit_error_by_weights", "logit_error_by_activations")
_WEIGHTS = ("channels_narrowed", "channels", "weight_error_before", "weight_error_after", *_COMMON)
_ACTIVATIONS = ("seven_bit_tensor", *_COMMON)


def _chosen(model: IntegerModel, mark: str, keys: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Some facts of the layers that have one of them, by layer."""
    return {name: {key: fact[key] for key in keys if key in fact} for name, fact in model.facts.items() if mark in fact}


def lowering_table(summary: Mapping[str, Any], scores: Mapping[str, Scores] = MappingProxyType({})) -> Table:
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
    table.add_row("  weight scale moved for a proof", f"{summary['channels_rescaled']:,}")
    table.add_row("most multipliers tried for a channel", f"{summary['most_candidates']:,}")
    table.add_row("largest change of a multiplier", f"{summary['largest_relative_change']:.2g}")
    table.add_row("largest accumulator", f"{summary['largest_accumulator']:,}")
    unsafe = len(summary["layers_unsafe_on_avx2"])
    here = "has" if environment().target is Target.VNNI else "has not, as far as is known"
    table.add_row(f"layers that need 8-bit dot products to be exact (this CPU {here})", f"{unsafe}")
    _saturation_rows(table, summary["narrowed"], summary["seven_bit_inputs"])
    for when, found in scores.items():
        score = found.scores[0]
        table.add_row(f"{score.name} {when} making it safe", score.show(found.leading))
    if "size_mb" in summary:
        table.add_row("model size by the formula (MB)", f"{summary['size_mb']:.3f}")
        table.add_row("file (MB)", f"{summary['file_mb']:.3f}")
    return table


def _saturation_rows(table: Table, narrowed: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """What was done against saturation, and what it is expected to cost."""
    if narrowed:
        table.add_row("layers with weights narrowed for 16-bit sums", f"{len(narrowed)}")
        table.add_row("  channels", f"{sum(fact['channels_narrowed'] for fact in narrowed.values()):,}")
        worst = max(narrowed.values(), key=lambda fact: fact["weight_error_after"])
        before, after = worst["weight_error_before"], worst["weight_error_after"]
        table.add_row("  largest error of their weights", f"{100 * after:.2f} %, was {100 * before:.2f} %")
    if inputs:
        table.add_row("layers with 7-bit inputs for 16-bit sums", f"{len(inputs)}")
        table.add_row("  tensors", f"{len({fact['seven_bit_tensor'] for fact in inputs.values()})}")
    # Layers that read one tensor carry the figures of one choice. Without images there are none.
    found = [fact for fact in (*narrowed.values(), *inputs.values()) if "logit_error_by_weights" in fact]
    costs = {(fact["logit_error_by_weights"], fact["logit_error_by_activations"]) for fact in found}
    if costs:
        table.add_row("expected change of the logits", f"{100 * _root(map(min, costs)):.2f} %")
        table.add_row("  with narrower weights alone", f"{100 * _root(weights for weights, _ in costs):.2f} %")
        table.add_row("  with 7-bit inputs alone", f"{100 * _root(activations for _, activations in costs):.2f} %")


def _root(errors: Iterable[float]) -> float:
    """Independent errors together."""
    return float(sum(error**2 for error in errors) ** 0.5)
