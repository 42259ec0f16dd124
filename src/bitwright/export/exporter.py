# SPDX-License-Identifier: MIT
"""What every exporter of integer models looks like."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from bitwright.export.pixels import Pixels
from bitwright.export.target import Target
from bitwright.integer.model import IntegerModel


class Exporter(Protocol):
    """Writes one file for one engine, or refuses with the reason."""

    def __call__(
        self, model: IntegerModel, path: str | Path, target: Target | str = Target.ANY, pixels: Pixels | None = None
    ) -> object:
        """Write `model` to `path`, atomically.

        Args:
            model: What to export.
            path: The path of the file.
            target: The CPUs that it must be exact on.
            pixels: How images were normalised in training: the file then takes uint8 pixels; without, normalised float32 images.

        Raises:
            ExportError: If the engine cannot be guaranteed to compute the integers of the model.
        """
