# SPDX-License-Identifier: MIT
"""How pixels become what a network reads: a value that is printed, kept in every file made from it, and compared."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from bitwright.decode import decode
from bitwright.errors import DataError
from bitwright.reading import parse_json

INTERPOLATIONS = ("bicubic", "bilinear", "box", "hamming", "lanczos", "nearest", "nearest-exact")
"""As torchvision and Pillow call them."""


@dataclass(frozen=True)
class Preprocessing:
    """Pixels from 0 to 1 are resized, cut, and become `(pixel - mean) / std`, as far as it is said: None was not.

    Attributes:
        mean: Of each channel.
        std: Of each channel.
        resize: What the shorter side is resized to, in pixels.
        crop: Height and width of what is cut out of the middle, in pixels.
        interpolation: Of the resizing, one of `INTERPOLATIONS`.

    Raises:
        DataError: If a value is out of its range.
    """

    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    resize: int | None = None
    crop: int | None = None
    interpolation: str | None = None

    def __post_init__(self) -> None:
        if self.mean is not None and not all(map(math.isfinite, self.mean)):
            raise DataError(f"expected finite means, got {_numbers(self.mean)}.")
        if self.std is not None and not all(math.isfinite(value) and value > 0 for value in self.std):
            raise DataError(f"expected standard deviations above 0, got {_numbers(self.std)}.")
        for name, size in (("resize", self.resize), ("crop", self.crop)):
            if size is not None and size < 1:
                raise DataError(f"expected to {name} to at least 1 pixel, got {size}.")
        if self.interpolation not in (None, *INTERPOLATIONS):
            raise DataError(
                f"unknown interpolation '{self.interpolation}'. Known: {', '.join(INTERPOLATIONS)} (of Pillow)."
            )

    def __bool__(self) -> bool:
        """Whether anything is said."""
        return any(getattr(self, item.name) is not None for item in fields(self))

    def over(self, other: Preprocessing | None) -> Preprocessing:
        """What is said here, and where nothing is, what `other` says.

        >>> Preprocessing(crop=32).over(Preprocessing(resize=36, crop=28))
        Preprocessing(mean=None, std=None, resize=36, crop=32, interpolation=None)
        """
        if other is None:
            return self
        return replace(other, **_said(self))

    def differences(self, other: Preprocessing | None) -> Iterator[str]:
        """Of what both say, what is not the same, in words: "mean 0.5, not 0.1307"."""
        there = {} if other is None else _said(other)
        for name, value in _said(self).items():
            if name in there and value != there[name]:
                yield f"{name} {_shown(value)}, not {_shown(there[name])}"

    def of_channels(self, channels: int) -> Preprocessing:
        """The same with a mean and a standard deviation for each channel: one stands for all.

        Raises:
            DataError: If there are several, but not as many as channels.
        """
        found = {}
        for name in ("mean", "std"):
            values = getattr(self, name)
            if values is not None and len(values) not in (1, channels):
                raise DataError(f"expected one {name} or one for each of {channels} channels, got {_numbers(values)}.")
            found[name] = values if values is None or len(values) == channels else values * channels
        return replace(self, **found)

    def to_dict(self) -> dict[str, Any]:
        """What is said, as JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in _said(self).items()}

    def to_text(self) -> str:
        """The same as a line of JSON, for the metadata of files."""
        return json.dumps(self.to_dict())

    @classmethod
    def from_text(cls, text: str, where: str) -> Preprocessing:
        """The inverse.

        Raises:
            FileFormatError: If it is something else.
        """
        return decode(cls, parse_json(text, where), where)

    def __str__(self) -> str:
        """In words.

        >>> print(Preprocessing((0.5,), (0.25,), resize=256, crop=224, interpolation="bilinear"))
        shorter side to 256 (bilinear), 224 x 224 of the middle, mean 0.5, std 0.25
        """
        words = []
        if self.resize is not None:
            how = "" if self.interpolation is None else f" ({self.interpolation})"
            words.append(f"shorter side to {self.resize}{how}")
        if self.crop is not None:
            words.append(f"{self.crop} x {self.crop}{' of the middle' if self.resize is not None else ' pixels'}")
        words += [
            f"{name} {_numbers(value)}" for name, value in (("mean", self.mean), ("std", self.std)) if value is not None
        ]
        return ", ".join(words) or "as they are given"


def require_same(data: Preprocessing, known: Preprocessing | None, reader: str, source: str) -> None:
    """Refuse images that are made otherwise than those that a network knows.

    Args:
        data: Of the images.
        known: Of the network, as far as it is known.
        reader: The network, for the message.
        source: The images, likewise.

    Raises:
        DataError: Names both.
    """
    found = list(data.differences(known))
    if found:
        raise DataError(
            f"{reader} was made with images of {known}; {source} has {'; '.join(found)}. Give it images that are made alike, or "
            "capture the network anew for these."
        )


def _said(given: Preprocessing) -> dict[str, Any]:
    return {name: value for name, value in asdict(given).items() if value is not None}


def _shown(value: object) -> str:
    return _numbers(value) if isinstance(value, tuple) else str(value)


def _numbers(values: tuple[float, ...]) -> str:
    """Numbers with commas; one where all are the same.

    >>> _numbers((0.5, 0.5)), _numbers((0.5, 0.25))
    ('0.5', '0.5, 0.25')
    """
    return ", ".join(f"{value:g}" for value in (values[:1] if len(set(values)) == 1 else values))
