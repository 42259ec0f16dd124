# SPDX-License-Identifier: MIT
"""What is asked of a data set when it is loaded."""

from __future__ import annotations

from dataclasses import dataclass, field

from bitwright.data.preprocessing import Preprocessing


@dataclass(frozen=True)
class Request:
    """What was asked for: the part of the name after the colon (or None), and the arguments of `load`."""

    folder: str | None
    image_size: int | None
    channels: int | None
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
