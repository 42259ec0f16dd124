# SPDX-License-Identifier: MIT
"""Boxes around objects, from maps of one or several scales: each place of a map says of one box whether it is there, and where.

A map of `5 + classes` channels has at each place the centre of a box within that place (2 channels, by a sigmoid), its width and
height (2, by an exponential, in units of four places), whether there is one (1), and its class. The network ends in these maps,
and so do the integers; what decodes them to boxes is real arithmetic behind it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

PLACE = 5
"""Channels before the classes: centre, size, and whether there is a box."""

SPAN = 4
"""A box is told by the scale of whose places it is nearest to so many wide."""

Found = dict[str, Tensor]
"""Boxes of one image: `boxes` float [boxes, 4], left, top, right, bottom in parts of the image; `scores`; `labels` int64."""


@torch.no_grad()
def decoded(outputs: Any, least: float = 0.01, overlap: float = 0.5, most: int = 100) -> list[Found]:
    """The boxes of each image, in float: what the maps say, without what overlaps a surer box of the same class.

    Args:
        outputs: Maps of a batch, a tensor or several by name.
        least: The score that a box has at least: how likely there is one, times how likely it is of its class.
        overlap: Of two boxes of one class that overlap more, as intersection over union, the surer is kept.
        most: Boxes of an image at most.
    """
    from torchvision.ops import batched_nms

    parts = []
    for values in in_order(outputs):
        height, width = values.shape[2:]
        rows = torch.arange(height, device=values.device)[:, None].expand(height, width)
        columns = torch.arange(width, device=values.device)[None].expand(height, width)
        cell = values.new_tensor([width, height])
        centre = (torch.stack([columns, rows]) + values[:, :2].sigmoid()) / cell[:, None, None]
        half = SPAN * values[:, 2:4].clamp(max=4.0).exp() / cell[:, None, None] / 2
        chance, label = values[:, PLACE:].softmax(1).max(1)
        score = values[:, PLACE - 1].sigmoid() * chance
        boxes = torch.cat([centre - half, centre + half], 1).clamp(0, 1)
        parts.append((boxes.flatten(2).mT, score.flatten(1), label.flatten(1)))
    boxes, scores, labels = (torch.cat(found, 1).float() for found in zip(*parts, strict=True))
    made = []
    for box, score, label in zip(boxes, scores, labels.long(), strict=True):
        sure = score >= least
        kept = batched_nms(box[sure], score[sure], label[sure], overlap)[:most]
        made.append({"boxes": box[sure][kept], "scores": score[sure][kept], "labels": label[sure][kept]})
    return made


def in_order(outputs: Any) -> list[Tensor]:
    """Those of the finest scale first."""
    maps = list(outputs.values()) if isinstance(outputs, Mapping) else [outputs]
    return sorted(maps, key=lambda values: -values.shape[2] * values.shape[3])
