# SPDX-License-Identifier: MIT
"""Several outputs as one vector of numbers an image: the space in which the curvature of their loss is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from bitwright.returned import shapes_of, shown_shapes
from bitwright.task.pairs import unlike


@dataclass(frozen=True)
class Joined:
    """How outputs stand in that vector, one behind the other.

    Attributes:
        shapes: Of what each output is for an image, by name.
    """

    shapes: Mapping[str, tuple[int, ...]]

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many numbers each has."""
        return tuple(map(prod, self.shapes.values()))

    def join(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The vectors of images, shape (images, numbers).

        Raises:
            DataError: If the outputs are others, as those of a reference may be.
        """
        found = {name: shape[1:] for name, shape in shapes_of(outputs).items()}
        if found != dict(self.shapes):
            raise unlike(shown_shapes(found), shown_shapes(self.shapes))
        return torch.cat([outputs[name].flatten(1) for name in self.shapes], 1)

    def parts(self, vectors: Tensor) -> dict[str, Tensor]:
        """The inverse."""
        cut = torch.split(vectors, [*self.sizes], 1)
        return {name: part.reshape(-1, *shape) for (name, shape), part in zip(self.shapes.items(), cut, strict=True)}
