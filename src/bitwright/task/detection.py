# SPDX-License-Identifier: MIT
"""Detection: maps of one or several scales are trained to say the boxes around objects."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.errors import DataError
from bitwright.task.boxes import PLACE, SPAN, in_order
from bitwright.task.definition import Task
from bitwright.task.pairs import pairs
from bitwright.task.registry import task
from bitwright.task.score import Score, Shape

if TYPE_CHECKING:
    from torchmetrics import Metric


@task("detection", needs="pycocotools")
def detection() -> Task:
    """A box around each object: maps (5 + classes, height, width) of one scale or several, targets (boxes, 5).

    A target is class, left, top, right and bottom, in parts of the image's width and height; the class -1 is none. The loss
    of an image is, over its number of boxes, that of whether there is one, summed over all places, and that of class, centre and
    size at the place of each box, in the scale that suits its size.

    Source:
        Redmon and Farhadi 2018, arXiv:1804.02767, section 2.1, for the parts of the loss; Ge et al. 2021, arXiv:2107.08430,
        section 2.1, for places without anchors.
    """
    return Task(
        name="detection",
        loss=detection_loss,
        scores=(
            Score("map_percent", "mean AP", partial(_precision, "map"), running=False),
            Score("map50_percent", "AP at IoU 0.5", partial(_precision, "map_50"), running=False),
        ),
        expects="(5 + classes, height, width), of one scale or several",
        fits=lambda shape: len(shape) == 3 and shape[0] > PLACE,
        check=_check,
        several_outputs=True,
        imitate=detection_distance,
    )


def detection_loss(outputs: Any, targets: Tensor) -> Tensor:
    """The loss of `detection`, mean over images."""
    maps = in_order(outputs)
    classes, boxes = targets[:, :, 0], targets[:, :, 1:].to(maps[0].dtype)
    counted = classes >= 0
    total = maps[0].new_zeros(len(targets))
    scale = _scale_of(boxes, maps)
    for number, values in enumerate(maps):
        image, box = (counted & (scale == number)).nonzero(as_tuple=True)
        row, column, centre, size = _placed(boxes[image, box], values)
        there = torch.zeros_like(values[:, PLACE - 1])
        there[image, row, column] = 1
        told = values[image, :, row, column]
        of_box = (
            F.cross_entropy(told[:, PLACE:], classes[image, box].long(), reduction="none")
            + (told[:, :2].sigmoid() - centre).square().sum(1)
            + (told[:, 2:4] - size).square().sum(1)
        )
        presence = F.binary_cross_entropy_with_logits(values[:, PLACE - 1], there, reduction="none")
        total = total + presence.sum((1, 2)).index_add(0, image, of_box)
    return (total / counted.sum(1).clamp_min(1)).mean()


def detection_distance(outputs: Any, taught: Any, temperature: float) -> Tensor:
    """How far maps are from a teacher's, which says of each place how likely a box is there, and what it is like if one is.

    The divergence of whether there is one, summed over all places, and that of class (softened by the temperature T, times T^2),
    centre and size, each place as much as the teacher is sure of it; over the number of boxes that the teacher expects, at least
    one; mean over images.

    Args:
        outputs: Maps of a batch, a tensor or several by name.
        taught: The teacher's, of the same names and shapes.
        temperature: Softens classes.

    Source:
        Mehta and Ozturk 2018, arXiv:1805.06361, whose distillation is scaled by how sure the teacher is, too.
    """
    parts = [_distance_of_places(made, wanted, temperature) for made, wanted in pairs(outputs, taught)]
    distances, sure = (torch.stack(found).sum(0) for found in zip(*parts, strict=True))
    return (distances / sure.clamp_min(1)).mean()


def _distance_of_places(values: Tensor, wanted: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Of one scale: the distance of each image, and how many boxes the teacher expects there."""
    there = wanted[:, PLACE - 1].sigmoid()
    presence = [
        F.binary_cross_entropy_with_logits(of[:, PLACE - 1], there, reduction="none") for of in (values, wanted)
    ]
    made, taught = (F.log_softmax(of[:, PLACE:] / temperature, 1) for of in (values, wanted))
    of_box = (
        temperature**2 * F.kl_div(made, taught, reduction="none", log_target=True).sum(1)
        + (values[:, :2].sigmoid() - wanted[:, :2].sigmoid()).square().sum(1)
        + (values[:, 2:4] - wanted[:, 2:4]).square().sum(1)
    )
    return (presence[0] - presence[1] + there * of_box).sum((1, 2)), there.sum((1, 2))


def _scale_of(boxes: Tensor, maps: list[Tensor]) -> Tensor:
    """The number of the map that tells of each box, whose longer side is nearest to four of its places."""
    sides = (boxes[..., 2:] - boxes[..., :2]).clamp_min(1e-6)
    longer = [(sides * boxes.new_tensor([values.shape[3], values.shape[2]])).amax(-1) for values in maps]
    return (torch.stack(longer, -1) / SPAN).log().abs().argmin(-1)


def _placed(boxes: Tensor, values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Row and column of each box's place, its centre within that, and the logarithm of its size in units of four places."""
    height, width = values.shape[2:]
    cell = boxes.new_tensor([width, height])
    centre = (boxes[:, :2] + boxes[:, 2:]) / 2 * cell
    place = torch.minimum(centre.floor(), cell - 1).clamp_min(0)
    size = ((boxes[:, 2:] - boxes[:, :2]).clamp_min(1e-6) * cell / SPAN).log()
    return place[:, 1].long(), place[:, 0].long(), centre - place, size


def _check(targets: Tensor, shape: Shape) -> None:
    if targets.dim() != 3 or targets.shape[2] != PLACE or not targets.is_floating_point():
        raise DataError(
            f"expected boxes of each image, real numbers of shape (batch, boxes, 5), got {targets.dtype} of shape "
            f"{tuple(targets.shape)}: take data with boxes, for instance digit-scenes:boxes."
        )
    known, most = shape[0] - PLACE, int(targets[:, :, 0].max()) if targets.numel() else -1
    if most >= known:
        raise DataError(
            f"the model tells {known} classes apart, but boxes have classes up to {most}: make the model with "
            f"num_classes={most + 1}."
        )


def _precision(key: str, shape: Shape) -> Metric:
    from bitwright.task.precision import BoxPrecision

    return BoxPrecision(key)
