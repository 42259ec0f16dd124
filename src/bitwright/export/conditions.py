# SPDX-License-Identifier: MIT
"""What every exported file says about itself."""

from __future__ import annotations

import json

from bitwright.export.pixels import Pixels
from bitwright.export.target import Target
from bitwright.integer.model import IntegerModel


def conditions(model: IntegerModel, target: Target, pixels: Pixels | None) -> dict[str, str]:
    """Scheme, bounds and certificates of a model, and the CPUs and images that its file is for; engines add their own."""
    images = "float32, normalised as in training"
    if pixels is not None:
        images = f"uint8 pixels; normalised inside by mean {list(pixels.mean)} and std {list(pixels.std)}"
    facts = {"scheme": model.scheme.to_dict(), "layers": dict(model.facts)}
    return {"bitwright": json.dumps(facts), "target": str(target), "images": images}
