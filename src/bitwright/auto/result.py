# SPDX-License-Identifier: MIT
"""What the front door found, measured and wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bitwright.allocation import ParetoFrontier
from bitwright.auto.measured import Measured
from bitwright.benchmark import environment
from bitwright.cost import ModelCost
from bitwright.integer import IntegerModel
from bitwright.scheme import Scheme

CALIBRATED, BY_BLOCKS, RECONSTRUCTED, TRAINED = "calibrated", "reconstructed by blocks", "reconstructed", "fine-tuned"
"""How integers are made."""


@dataclass(frozen=True)
class AutoResult:
    """What was found, and what was written.

    Attributes:
        scheme: Bits of every layer.
        way: How its integers were made: `calibrated`, `reconstructed by blocks`, `reconstructed` (all layers at once behind the
            blocks), or `fine-tuned`.
        model: The integers.
        engine: That the file is for.
        labelled: Whether right guesses are those of labels; else they are the float network's.
        float_measured: The float network on the held-out images.
        measured: The integers on them.
        cheaper: The next cheaper scheme of the frontier, measured; where its rounding is learned, with all layers at once behind
            the blocks. None where there is none.
        cost: Size of the weights (MB of 2**20 bytes) and bit operations for one image (G of 10**9); and of the float network.
        milliseconds: For one image in the file's engine, median; and of the float network in ONNX Runtime.
        equal: The equal of how many held-out images all logits of the file equal those that were measured, and of how many.
        checked: What the file states about where it was run.
        files: What was written, by what it is.
        tried: All that was measured: (way, scheme's name, counts), in order.
        frontier: That was searched along; None where there was no drop to keep.
    """

    scheme: Scheme
    way: str
    model: IntegerModel = field(repr=False)
    engine: str
    labelled: bool
    float_measured: Measured
    measured: Measured
    cheaper: Measured | None
    cost: ModelCost
    float_cost: ModelCost
    milliseconds: Mapping[str, float]
    equal: tuple[int, int]
    checked: str
    files: Mapping[str, Path]
    tried: tuple[tuple[str, str, Measured], ...] = field(repr=False)
    frontier: ParetoFrontier | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "scheme": self.scheme.to_dict(),
            "way": self.way,
            "engine": self.engine,
            "judged_by": "labels" if self.labelled else "the float network",
            "float": self.float_measured.to_dict(),
            "integers": self.measured.to_dict(),
            "next_cheaper": None if self.cheaper is None else self.cheaper.to_dict(),
            "cost": asdict(self.cost),
            "float_cost": asdict(self.float_cost),
            "milliseconds": dict(self.milliseconds),
            "equal_images": self.equal[0],
            "compared_images": self.equal[1],
            "checked": self.checked,
            "files": {name: str(path) for name, path in self.files.items()},
            "tried": [{"way": way, "scheme": name, **found.to_dict()} for way, name, found in self.tried],
            "frontier": None if self.frontier is None else _points(self.frontier),
            "environment": environment().to_dict(),
        }


def _points(frontier: ParetoFrontier) -> dict[str, Any]:
    """What each scheme on the frontier costs, and what it is expected to lose."""
    points = [
        {"scheme": point.scheme.name, "used": used, "objective": point.objective}
        for point, used in zip(frontier.points, frontier.used(), strict=True)
    ]
    return {"kind": frontier.kind, "unit": frontier.unit, "points": points}
