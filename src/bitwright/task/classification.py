# SPDX-License-Identifier: MIT
"""One class for each image: cross entropy, top-1 and top-5."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from bitwright.task.curvature import Loss, SoftmaxCurvature
from bitwright.task.definition import Task
from bitwright.task.labels import are_probabilities, check_labels
from bitwright.task.registry import task
from bitwright.task.score import Score, Shape

if TYPE_CHECKING:
    from torchmetrics import Metric


@task("classification")
def classification() -> Task:
    """One class for each image: cross entropy, top-1 and top-5. Targets may be probabilities of all classes, in training."""
    return Task(
        name="classification",
        loss=_cross_entropy,
        scores=(
            Score("top1_percent", "top-1", partial(_right_guesses, 1)),
            Score("top5_percent", "top-5", partial(_right_guesses, 5)),
        ),
        curvature=SoftmaxCurvature(),
        expects="(classes,)",
        fits=lambda shape: len(shape) == 1,
        check=_check,
        class_labels=True,
        smoothed=_smoothed,
        imitate=softened_divergence,
    )


def _cross_entropy(outputs: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    targets = targets if targets.is_floating_point() else targets.long()
    return F.cross_entropy(outputs, targets, label_smoothing=label_smoothing)


def _smoothed(amount: float) -> Loss:
    return partial(_cross_entropy, label_smoothing=amount)


def _check(targets: Tensor, shape: Shape) -> None:
    if not are_probabilities(targets, shape[0]):
        check_labels(targets, shape[0])


def _right_guesses(k: int, shape: Shape) -> Metric:
    from bitwright.task.counting import RightGuesses

    return RightGuesses(k)


def softened_divergence(outputs: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """T^2 KL(taught || outputs) of both softened by T, summed over classes, mean over images and, where there are, pixels.

    Source:
        Hinton et al. 2015, arXiv:1503.02531.
    """
    wanted, got = F.log_softmax(taught / temperature, 1), F.log_softmax(outputs / temperature, 1)
    places = outputs.numel() // outputs.shape[1]
    return temperature**2 * F.kl_div(got, wanted, reduction="sum", log_target=True) / places
