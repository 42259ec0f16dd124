# SPDX-License-Identifier: MIT
"""What an import cannot promise, in words."""

from __future__ import annotations

from bitwright.integer.model import IntegerModel


def import_notes(model: IntegerModel) -> tuple[str, ...]:
    """What an imported model cannot promise about the reference's own float32 arithmetic, one line each."""
    layers = {name: facts for name, facts in model.facts.items() if "largest_accumulator" in facts}
    notes = []
    rounded = [name for name, facts in layers.items() if not facts["float32_exact"]]
    if rounded:
        worst = max(layers[name]["largest_accumulator"] for name in rounded)
        notes.append(
            f"{len(rounded)} layers can accumulate up to {worst:,}, beyond 2**24, where the reference's own float32 sums were "
            f"inexact; its integers may then differ from these: {_some(rounded)}."
        )
    lost = [name for name, facts in layers.items() if facts["float32_exact"] and not facts["reference_exact"]]
    if lost:
        notes.append(
            f"{len(lost)} more can accumulate beyond 2**22, where the reference's scaling in float32, or its product in "
            f"float64, was inexact: {_some(lost)}."
        )
    constants = {name: facts["constant_channels"] for name, facts in layers.items() if facts.get("constant_channels")}
    if constants:
        notes.append(
            f"{sum(constants.values())} channels of {_some(list(constants))} have a bias beyond int32 and always give one "
            "value, which is stored instead."
        )
    if model.facts.get("scales", {}).get("unlike_ranges"):
        notes.append(
            f"the scales of {_some(model.facts['scales']['unlike_ranges'])} are not those of the stored ranges; "
            "the scales were taken."
        )
    return tuple(notes)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
