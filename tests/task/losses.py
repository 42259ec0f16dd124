# SPDX-License-Identifier: MIT
"""Tasks of all kinds of curvature, with targets to go with them, and the slow, literal twin of S."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from bitwright.task import Task, agreement, classification, dense_classification

Targets = Callable[[Tensor], Tensor]
"""From outputs to targets of their batch."""


def focal(outputs: Tensor, targets: Tensor) -> Tensor:
    """Lin et al. 2017, arXiv:1708.02002: not convex, so that S has negative eigenvalues."""
    log_p = F.log_softmax(outputs, 1).gather(1, targets[:, None])
    return -((1 - log_p.exp()) ** 2 * log_p).mean()


def huber_like(outputs: Tensor, targets: Tensor) -> Tensor:
    """For outputs of any shape: log cosh of the differences."""
    return torch.log(torch.cosh(outputs - targets)).flatten(1).sum(1).mean()


def classes(outputs: Tensor) -> Tensor:
    """All in turn."""
    return torch.arange(len(outputs)) % outputs.shape[1]


def real(outputs: Tensor) -> Tensor:
    """Up to one beside the outputs."""
    return outputs + torch.linspace(-1, 1, outputs[0].numel(), dtype=outputs.dtype).reshape(outputs.shape[1:])


def pixels(outputs: Tensor) -> Tensor:
    """Every fifth pixel does not count."""
    found = torch.arange(outputs[:, 0].numel()) % outputs.shape[1]
    found[::5] = 255
    return found.reshape(len(outputs), *outputs.shape[2:])


VECTORS: dict[str, tuple[Task, Targets]] = {
    "softmax": (classification(), classes),
    "squared error": (agreement(), real),
    "focal": (Task(name="focal", loss=focal), classes),
    "log cosh": (Task(name="log-cosh", loss=huber_like), real),
}
"""For outputs of shape (classes,): each with all its directions."""
MAPS: dict[str, tuple[Task, Targets]] = {
    "dense softmax": (dense_classification(), pixels),
    "squared error": (agreement(), real),
    "log cosh": (Task(name="log-cosh", loss=huber_like), real),
}
"""For outputs of shape (classes, height, width)."""


def literal(task: Task, outputs: Tensor, targets: Tensor) -> list[Tensor]:
    """S of each image, entry by entry: the Hessian of its loss by itself."""
    found = []
    for output, target in zip(outputs.split(1), targets.split(1), strict=True):
        hessian = torch.autograd.functional.hessian(lambda values, target=target: task.loss(values, target), output)
        found.append(hessian.reshape(output.numel(), output.numel()))
    return found
