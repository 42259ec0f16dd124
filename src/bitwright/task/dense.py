# SPDX-License-Identifier: MIT
"""A class for each pixel: segmentation."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.errors import DataError
from bitwright.task.classification import softened_divergence
from bitwright.task.curvature import DenseSoftmaxCurvature, Loss
from bitwright.task.definition import Task
from bitwright.task.registry import task
from bitwright.task.score import Score, Shape

if TYPE_CHECKING:
    from torchmetrics import Metric

IGNORED = 255
"""The target of pixels that do not count, as data sets from Pascal VOC on have it."""


@task("dense-classification")
def dense_classification(ignore_index: int = IGNORED) -> Task:
    """A class for each pixel: outputs (classes, height, width), targets (height, width).

    The loss is the cross entropy, mean over all pixels; pixels that do not count add zero to it, so that an image's loss
    depends on no other image.

    Args:
        ignore_index: The target of pixels that do not count.
    """
    return Task(
        name="dense-classification",
        loss=partial(_cross_entropy, ignore_index=ignore_index),
        scores=(
            Score("mean_iou_percent", "mean IoU", partial(_mean_iou, ignore_index)),
            Score("pixel_accuracy_percent", "pixel accuracy", partial(_pixel_accuracy, ignore_index)),
        ),
        curvature=DenseSoftmaxCurvature(ignore_index),
        settings={"ignore_index": ignore_index},
        expects="(classes, height, width)",
        fits=lambda shape: len(shape) == 3,
        check=partial(_check, ignore_index),
        smoothed=partial(_smoothed, ignore_index),
        imitate=softened_divergence,
    )


def _cross_entropy(outputs: Tensor, targets: Tensor, ignore_index: int, label_smoothing: float = 0.0) -> Tensor:
    total = F.cross_entropy(
        outputs, targets.long(), ignore_index=ignore_index, reduction="sum", label_smoothing=label_smoothing
    )
    return total / targets.numel()


def _smoothed(ignore_index: int, amount: float) -> Loss:
    return partial(_cross_entropy, ignore_index=ignore_index, label_smoothing=amount)


def _check(ignore_index: int, targets: Tensor, shape: Shape) -> None:
    if tuple(targets.shape[1:]) != shape[1:] or targets.is_floating_point() or targets.dtype == torch.bool:
        raise DataError(
            f"expected a class for each pixel, integers of shape {('batch', *shape[1:])}, got {targets.dtype} of shape "
            f"{tuple(targets.shape)}.".replace("'", "")
        )
    counted = targets[targets != ignore_index]
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < shape[0]:
        raise DataError(
            f"the model tells {shape[0]} classes apart, but pixels have {int(counted.min())} to {int(counted.max())}: those that "
            f"do not count must be {ignore_index}."
        )


def _mean_iou(ignore_index: int, shape: Shape) -> Metric:
    from bitwright.task.counting import MeanIoU

    return MeanIoU(shape[0], ignore_index=ignore_index, validate_args=False)


def _pixel_accuracy(ignore_index: int, shape: Shape) -> Metric:
    from bitwright.task.counting import PixelAccuracy

    return PixelAccuracy(shape[0], ignore_index=ignore_index, validate_args=False)
