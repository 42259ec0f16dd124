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
            path: Of the file.
            target: The CPUs that it must be exact on.
            pixels: How images were normalised in training: the file then takes uint8 pixels; without, normalised float32 images.

        Raises:
            ExportError: If the engine cannot be guaranteed to compute the integers of the model.
        """


def companions(path: str | Path) -> tuple[Path, ...]:
    """The files that an exporter writes beside the one it is given: OpenVINO keeps the weights of an .xml file in .bin."""
    place = Path(path)
    return (place.with_suffix(".bin"),) if place.suffix == ".xml" else ()


def exported_bytes(path: str | Path) -> int:
    """Length of an exported file, with those beside it."""
    return sum(place.stat().st_size for place in (Path(path), *companions(path)) if place.is_file())
