# SPDX-License-Identifier: MIT
"""Knowledge distillation: the loss also asks for the teacher's outputs."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
from torch import Tensor, nn

from bitwright.errors import TrainingError
from bitwright.graph.digest import digest
from bitwright.returned import Returned, as_returned, by_name, differences, first
from bitwright.task import Task


class DivergenceScale(StrEnum):
    """What the divergence of a teacher is averaged over: the images, or images and classes as HAWQ-V3 published it.

    The latter is as many times smaller as there are classes: at 1,000 classes the labels then weigh more than the teacher.
    """

    IMAGE = "image"
    PUBLISHED = "published"


@dataclass(frozen=True)
class Distillation:
    """Hinton et al. 2015, arXiv:1503.02531.

    Attributes:
        teacher: A trained network in evaluation mode.
        alpha: Weight of the teacher's part, from 0 to 1.
        temperature: Softens both distributions, where outputs are classes; the teacher's part is multiplied by its square, which
            keeps gradients in scale.
        scale: What the teacher's part is averaged over.
    """

    teacher: nn.Module
    alpha: float = 0.5
    temperature: float = 4.0
    scale: DivergenceScale = DivergenceScale.IMAGE

    def settings(self) -> dict[str, Any]:
        """All that decides the loss, as JSON values; of the teacher a digest."""
        teacher = digest(*self.teacher.state_dict().values())
        return {
            "alpha": self.alpha,
            "temperature": self.temperature,
            "scale": str(self.scale),
            "teacher": teacher,
        }

    def combine(self, task: Task, loss: Tensor, outputs: Returned, images: Tensor) -> Tensor:
        """`(1 - alpha) loss + alpha distance`, with the task's distance of the outputs from the teacher's.

        For classes it is T^2 KL(teacher || student), summed over classes, averaged over images.

        Raises:
            CaptureError: If the teacher returns something else than tensors.
            TrainingError: If the teacher's outputs have other names or shapes, or the published average is asked for of several.
        """
        with torch.no_grad():
            taught = as_returned(self.teacher(images), "the teacher")
        if (other := differences(taught, outputs)) is not None:
            raise TrainingError(
                f"the teacher returns {other[0]} for each image and the student {other[1]}: give both weights for the same "
                "classes."
            )
        distance = task.distance(outputs, taught, self.temperature)
        if self.scale is DivergenceScale.PUBLISHED:
            if len(by_name(outputs)) > 1:
                raise TrainingError(
                    "the published divergence is over the classes of one output: take that over images."
                )
            distance = distance / first(outputs).shape[1]
        return (1 - self.alpha) * loss + self.alpha * distance
