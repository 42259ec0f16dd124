# SPDX-License-Identifier: MIT
"""Second moments of what the weights of a layer are multiplied by: how much its results mind what becomes of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.graph.nodes import Conv2d, Layer
from bitwright.training.quantized import Quantized

SAMPLES, SAMPLES_A_WEIGHT = 32_768, 8
"""Results that are looked at: at least so many, and so many for each weight of a channel. All images have as many of them."""
MOST = 2**25
"""Products of which a layer has moments, at most; half a gigabyte for both networks. A wide linear layer is cut into parts, each
with moments of its own, as if it were groups: what one part loses, others do not take up."""
AT_ONCE = 2**23
"""Numbers that are multiplied with each other at once: those of all images take gigabytes where layers are wide."""


@dataclass(frozen=True)
class SecondMoments:
    """Of a layer's inputs in the quantized network, and of these beside the float network's; float64 sums of float32 ones.

    With x what the weights of one channel are multiplied by for one result, and y the same in the float network, means over
    results.

    Attributes:
        made: `E[x x^T]` for each group of a convolution, or part of one: shape (groups, weights of a channel, again).
        across: `E[y x^T]`, shaped likewise.
    """

    made: Tensor
    across: Tensor


def second_moments(
    node: Layer,
    kernel: Sequence[int],
    real: Sequence[Tensor],
    made: Iterable[Quantized],
    *,
    centred: bool,
    generator: torch.Generator,
) -> list[SecondMoments]:
    """Of random results of each image: of all images, then of the first half of them and of the others, where there are two.

    Args:
        node: The layer.
        kernel: The shape of one channel of its weight.
        real: What it reads in the float network, a batch each.
        made: What it reads in the quantized network.
        centred: Without the means, for a layer with an offset that takes care of those.
        generator: Of the choice.
    """
    weights = torch.Size(kernel).numel()
    images = sum(len(part) for part in real)
    each = -(-max(SAMPLES, SAMPLES_A_WEIGHT * weights) // images)
    groups = node.groups if isinstance(node, Conv2d) else 1
    parts = -(-groups * weights**2 // MOST)
    piece = max(1, AT_ONCE // (each * weights * groups))
    halves, first = [_Sums(), _Sums()], None
    for half, real_part, made_part in _pieces(real, made, piece, images // 2):
        rows = _rows(node, kernel, torch.cat([made_part, real_part]), each, generator)
        x, y = parted(rows, parts).chunk(2, 1)
        if centred:
            # From somewhere near: the small difference of two large squares would be noise, and may be negative.
            first = first or (x[:, :1].clone(), y[:, :1].clone())
            x, y = x - first[0], y - first[1]
        halves[half].add(x, y)
    found = [halves[0] + halves[1], *halves] if images > 1 else halves[1:]
    return [sums.means(centred=centred) for sums in found]


def parted(values: Tensor, parts: int) -> Tensor:
    """Each group's columns in so many parts, with zeros behind the last ones, as groups of their own.

    Args:
        values: Shape (groups, rows, columns).
        parts: How many.

    Returns:
        Shape (groups * parts, rows, columns of a part).
    """
    groups, rows, columns = values.shape
    padded = F.pad(values, (0, -columns % parts))
    return padded.reshape(groups, rows, parts, -1).transpose(1, 2).flatten(0, 1)


def joined(values: Tensor, groups: int, columns: int) -> Tensor:
    """What was `parted`, whole again: shape (groups, rows, columns)."""
    parts = values.reshape(groups, -1, *values.shape[1:])
    return parts.transpose(1, 2).flatten(2)[:, :, :columns]


class _Sums:
    """Sums over results, which add up: of squares and products, and of the values themselves."""

    def __init__(self) -> None:
        self.count = 0
        self.sums: list[Tensor] = []

    def add(self, x: Tensor, y: Tensor) -> None:
        """Results, shape (groups, results, weights of a channel): in the quantized network and in the float one."""
        self._take(
            x.shape[1], [found.double() for found in (x.transpose(1, 2) @ x, y.transpose(1, 2) @ x, x.sum(1), y.sum(1))]
        )

    def _take(self, count: int, sums: list[Tensor]) -> None:
        self.count += count
        self.sums = [whole + more for whole, more in zip(self.sums, sums, strict=True)] if self.sums else sums

    def __add__(self, other: _Sums) -> _Sums:
        both = _Sums()
        for part in (self, other):
            both._take(part.count, part.sums)
        return both

    def means(self, *, centred: bool) -> SecondMoments:
        """Over results."""
        inner, across, x_mean, y_mean = (whole / self.count for whole in self.sums)
        if centred:
            inner = inner - x_mean[:, :, None] * x_mean[:, None, :]
            across = across - y_mean[:, :, None] * x_mean[:, None, :]
        return SecondMoments(inner, across)


def _pieces(
    real: Sequence[Tensor], made: Iterable[Quantized], images: int, first: int
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Both networks' inputs, of at most so many images, in real numbers, after 0 for the first ones and 1 for the others."""
    left = first
    for real_part, made_part in zip(real, made, strict=True):
        here = min(left, len(real_part))
        left -= here
        both = real_part, made_part.real()
        for half, chosen in enumerate((slice(0, here), slice(here, None))):
            if len(real_part[chosen]):
                pieces = (torch.split(part[chosen], images) for part in both)
                yield from ((half, *pair) for pair in zip(*pieces, strict=True))


def _rows(node: Layer, kernel: Sequence[int], values: Tensor, each: int, generator: torch.Generator) -> Tensor:
    """What the weights of a channel are multiplied by, shape (groups, results of all images, weights of a channel)."""
    if not isinstance(node, Conv2d):
        rows = values.reshape(len(values), -1, values.shape[-1])
        return rows[:, _drawn(rows.shape[1], each, generator)].reshape(1, -1, values.shape[-1])
    (down, right), (above, left) = node.stride, node.padding
    _, height, width = kernel
    padded = F.pad(values, (left, left, above, above))
    _, results_down, results_across = node.shape
    drawn = _drawn(results_down * results_across, each, generator)
    first = drawn // results_across * down * padded.shape[3] + drawn % results_across * right
    taps = [y * node.dilation[0] * padded.shape[3] + x * node.dilation[1] for y in range(height) for x in range(width)]
    places = first[:, None] + torch.tensor(taps)
    found = padded.flatten(2)[:, :, places.to(values.device)]  # (images, channels, results, taps)
    grouped = found.reshape(len(values), node.groups, -1, *places.shape).permute(1, 0, 3, 2, 4)
    return grouped.reshape(node.groups, -1, torch.Size(kernel).numel())


def _drawn(count: int, each: int, generator: torch.Generator) -> Tensor:
    """So many of `count` places, or all."""
    return torch.randperm(count, generator=generator)[:each]
