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

    def grey(
        self, side: int, mean: float, std: float
    ) -> tuple[tuple[int, int, int], tuple[float, ...], tuple[float, ...]]:
        """Shape, mean and standard deviation of square images that are grey: of one channel, or of several that are alike.

        Args:
            side: Height and width in pixels, where none was asked for.
            mean: Of pixels from 0 to 1, where none was asked for.
            std: Likewise.

        >>> Request(None, image_size=None, channels=3).grey(28, 0.25, 0.5)
        ((3, 28, 28), (0.25, 0.25, 0.25), (0.5, 0.5, 0.5))
        """
        channels, size = self.channels or 1, self.image_size or side
        own = self.preprocessing.over(Preprocessing((mean,), (std,))).of_channels(channels)
        return (channels, size, size), own.mean or (), own.std or ()
