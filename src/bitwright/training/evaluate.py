# SPDX-License-Identifier: MIT
"""How well anything that turns images into outputs does its task: a float model, a QuantizedModel, an IntegerModel, an engine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sized
from typing import TYPE_CHECKING, Any

import torch
from accelerate.utils import send_to_device
from torch import Tensor

from bitwright.errors import DataError, TaskError
from bitwright.progress import Progress, silent
from bitwright.returned import as_returned, first
from bitwright.task import Scores, Task, classification, require_outputs
from bitwright.task.placement import beside

if TYPE_CHECKING:
    from torchmetrics import Metric


@torch.no_grad()
def evaluate(
    predict: Callable[[Tensor], Any],
    batches: Iterable[Any],
    *,
    task: Task | None = None,
    model: str = "the model",
    observe: Callable[[Tensor, Tensor], object] | None = None,
    progress: Progress = silent,
) -> Scores:
    """Judge a network on a data set.

    Args:
        predict: Images to real outputs, of shape (batch, *outputs), in any form that a module may return. Of several outputs, the
            first is judged, unless the task is of several. A module gets images on its own device.
        batches: (images, labels), as pairs or as dictionaries; without labels, where the task is free of them.
        task: What the network is for; None is classification.
        model: Its name, for messages.
        observe: Called with the outputs and the targets of every batch.
        progress: Told about every batch.

    Raises:
        DataError: If there is no image, or targets do not fit the outputs.
        TaskError: If the task does not fit the outputs, has no scores, or lacks the network to compare with.
    """
    task = task or classification()
    if not task.scores:
        raise TaskError(f"the task {task.name} has no scores, so that nothing can be evaluated: give it some.")
    metrics: list[Metric] = []
    seen = 0
    total = len(batches) if isinstance(batches, Sized) else 0
    for done, (images, given) in enumerate(task.batches(batches), 1):
        returned = as_returned(predict(beside(predict, images)), model)
        leading = first(returned)
        outputs = returned if task.several_outputs else leading
        targets, shape = send_to_device(given, leading.device), tuple(leading.shape[1:])
        if not metrics:
            require_outputs(task, shape, model)
            metrics = [score.make(shape).to(leading.device) for score in task.scores]
            for metric in metrics:
                # Whoever calls judges all that it was given: under torchrun that is the first process alone, and none answers it.
                metric.distributed_available_fn = _alone
        task.check(targets, shape)
        for metric in metrics:
            metric.update(outputs, targets)
        seen += len(leading)
        if observe is not None:
            observe(outputs, targets)
        leader = task.scores[0]
        progress(done, max(total, done), **({leader.name: float(metrics[0].compute())} if leader.running else {}))
    if not metrics:
        raise DataError("the data set has no images to evaluate on.")
    return Scores(seen, task.scores, tuple(float(metric.compute()) for metric in metrics))


def _alone() -> bool:
    """Whether a metric would wait for the counts of other processes."""
    return False
