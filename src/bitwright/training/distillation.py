# SPDX-License-Identifier: MIT
"""Knowledge distillation: the loss also asks for the teacher's logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bitwright.graph.digest import digest


@dataclass(frozen=True)
class Distillation:
    """Hinton et al. 2015, arXiv:1503.02531.

    Attributes:
        teacher: A trained network in evaluation mode.
        alpha: Weight of the teacher's part, from 0 to 1.
        temperature: Softens both distributions; the teacher's part is multiplied by its square, which keeps gradients in scale.
    """

    teacher: nn.Module
    alpha: float = 0.5
    temperature: float = 4.0

    def settings(self) -> dict[str, Any]:
        """All that decides the loss, as JSON values; of the teacher a digest."""
        teacher = digest(*self.teacher.state_dict().values())
        return {"alpha": self.alpha, "temperature": self.temperature, "teacher": teacher}

    def combine(self, loss: Tensor, logits: Tensor, images: Tensor) -> Tensor:
        """`(1 - alpha) loss + alpha T^2 KL(teacher || student)`, the divergence summed over classes, averaged over images."""
        with torch.no_grad():
            wanted = F.log_softmax(self.teacher(images) / self.temperature, 1)
        got = F.log_softmax(logits / self.temperature, 1)
        divergence = F.kl_div(got, wanted, reduction="batchmean", log_target=True)
        return (1 - self.alpha) * loss + self.alpha * self.temperature**2 * divergence
