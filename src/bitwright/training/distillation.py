# SPDX-License-Identifier: MIT
"""Knowledge distillation: the loss also asks for the teacher's logits."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.errors import TrainingError
from bitwright.graph.digest import digest


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
        temperature: Softens both distributions; the teacher's part is multiplied by its square, which keeps gradients in scale.
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

    def combine(self, loss: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """`(1 - alpha) loss + alpha T^2 KL(teacher || student)`, the divergence summed over classes, averaged over images.

        Raises:
            TrainingError: If the teacher tells other classes apart.
        """
        with torch.no_grad():
            taught = self.teacher(images)
        if taught.shape != logits.shape:
            raise TrainingError(
                f"the teacher has {taught.shape[1]} classes and the student {logits.shape[1]}: give both weights for the same "
                "classes."
            )
        wanted = F.log_softmax(taught / self.temperature, 1)
        got = F.log_softmax(logits / self.temperature, 1)
        divergence = F.kl_div(got, wanted, reduction="batchmean", log_target=True)
        if self.scale is DivergenceScale.PUBLISHED:
            divergence = divergence / logits.shape[1]
        return (1 - self.alpha) * loss + self.alpha * self.temperature**2 * divergence
