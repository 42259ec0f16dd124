# SPDX-License-Identifier: MIT
"""How well a network does its task: figures with a name and a unit, and what was found."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bitwright.errors import unknown_name

if TYPE_CHECKING:
    from torchmetrics import Metric

Shape = tuple[int, ...]
"""Of what a network returns for one image."""


@dataclass(frozen=True)
class Score:
    """A figure of how well a network does.

    Attributes:
        key: In files and JSON: `top1_percent`.
        name: In tables and lines: `top-1`.
        make: The metric of torchmetrics that counts, for outputs of some shape; it is updated with outputs and targets, and
            its result is in `unit`.
        unit: `%`, or nothing.
        higher_is_better: Or else lower.
        digits: After the point, where people read it.
        running: Whether it is found quickly enough to be shown after every batch.
    """

    key: str
    name: str
    make: Callable[[Shape], Metric] = field(compare=False)
    unit: str = "%"
    higher_is_better: bool = True
    digits: int = 2
    running: bool = True

    def show(self, value: float) -> str:
        """The figure with its unit.

        >>> Score("top1_percent", "top-1", make=None).show(93.1)
        '93.10 %'
        """
        return f"{value:.{self.digits}f} {self.unit}".rstrip()

    def better(self, value: float, than: float) -> bool:
        """Whether one figure is better than another."""
        return value > than if self.higher_is_better else value < than

    @property
    def heading(self) -> str:
        """Of a column: `Top-1 (%)`."""
        title = self.name[:1].upper() + self.name[1:]
        return f"{title} ({self.unit})" if self.unit else title


@dataclass(frozen=True)
class Scores:
    """What was found over a data set.

    Attributes:
        images: How many were evaluated.
        scores: The scores of the task, the leading one first.
        values: One for each.
    """

    images: int
    scores: tuple[Score, ...]
    values: tuple[float, ...]

    def __getitem__(self, key: str) -> float:
        """The figure with this key.

        Raises:
            UnknownNameError: If the task has none.
        """
        figures = {score.key: value for score, value in zip(self.scores, self.values, strict=True)}
        if key not in figures:
            raise unknown_name("score", key, figures)
        return figures[key]

    @property
    def leading(self) -> float:
        """The first figure, by which networks are compared."""
        return self.values[0]

    def to_dict(self) -> dict[str, float]:
        """The number of images, and the figures by key, as JSON values."""
        return {
            "images": self.images,
            **{score.key: value for score, value in zip(self.scores, self.values, strict=True)},
        }

    def __str__(self) -> str:
        """`top-1 93.10 %, top-5 99.80 %`."""
        return ", ".join(
            f"{score.name} {score.show(value)}" for score, value in zip(self.scores, self.values, strict=True)
        )
