# SPDX-License-Identifier: MIT
"""From a graph and a batch of images to a table of sensitivities, in one call."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from bitwright.data.given import each_images, each_labelled, in_one
from bitwright.errors import DataError
from bitwright.graph.autocast import full_precision
from bitwright.graph.digest import digest, network_digest
from bitwright.graph.graph import Graph
from bitwright.progress import Progress, silent
from bitwright.sensitivity.checkpoint import Checkpoint
from bitwright.sensitivity.loss import GraphLoss
from bitwright.sensitivity.metrics import Measurement, find_metric
from bitwright.sensitivity.settings import SensitivitySettings
from bitwright.sensitivity.table import SensitivityTable
from bitwright.task import Task, classification


@full_precision()
def measure_sensitivity(
    graph: Graph,
    images: Tensor | Iterable[Any],
    labels: Tensor | None = None,
    settings: SensitivitySettings | None = None,
    *,
    task: Task | None = None,
    output: str | None = None,
    data: str = "",
    checkpoint: str | Path | None = None,
    resume: bool = False,
    progress: Progress = silent,
) -> SensitivityTable:
    """Measure how much the loss of a network suffers when a layer is quantized.

    The loss is the task's, mean over images, as a function of each layer's folded weights (those that get quantized) and of the
    tensor that the layer reads. Batch norm counts with its running statistics. The graph, its tensors and their gradients
    stay as they are.

    Where torch.distributed is initialised, the processes share the work: call it in each with the same arguments, and each
    gets the table that one process would have made.

    Args:
        graph: A trained network, on any device; all is computed there.
        images: Shape (batch, channels, height, width). With `gauss_newton_trace` more images cost little: hundreds or
            thousands keep the choice of images from drowning the estimate. Or, without `labels`, a DataLoader or another
            iterable of (images, labels), all of which is taken.
        labels: Their targets, for classification of shape (batch,); none where the task imitates a network.
        settings: The metric, and how well it is to be known.
        task: What the network is for; None is classification. `agreement` needs no labels: where it has no reference, the network
            is compared with itself.
        output: Of a network with several outputs, the only one whose loss counts; None takes the task's loss of all.
        data: The data's name, kept in the table.
        checkpoint: File to keep partial results in, every few seconds, or None.
        resume: Whether to start from `checkpoint`, if it exists; the table is then that of an uninterrupted measurement, bit
            for bit. The file stays: delete it once the table is saved.
        progress: Called as samples come in.

    Returns:
        One entry for each layer, named as in the graph, in execution order.

    Raises:
        DataError: If images or labels do not fit the network.
        FileFormatError: If the checkpoint is damaged, or belongs to another measurement.
        TaskError: If the task does not fit the network's outputs.
        TrainingError: If the loss or a gradient is not finite.
        UnknownNameError: If there is no such metric, or no such output.
    """
    settings = settings or SensitivitySettings()
    metric = find_metric(settings.metric)
    task = task or classification()
    loss = GraphLoss(graph, *_together(images, labels, task), task, output)
    limits = settings.limits(metric.max_probes)
    network, shown = network_digest(graph), digest(loss.images, loss.targets)
    decisive = {
        **settings.decisive(), "min_probes": limits.min_probes, "max_probes": limits.max_probes, "task": task.identity(),
        "output": output, "network": network, "images": shown,
    }  # fmt: skip
    with Checkpoint(checkpoint, decisive, resume) as kept:
        layers = metric.measure(Measurement(loss, settings, limits, kept, progress))
    return SensitivityTable(
        layers,
        settings.metric,
        graph.model,
        data,
        len(loss.images),
        settings.seed,
        task.name,
        network=network,
        images=shown,
        preprocessing=graph.preprocessing,
        output=output,
    )


def _together(images: Tensor | Iterable[Any], labels: Tensor | None, task: Task) -> tuple[Tensor, Tensor | None]:
    """All images and all labels, each one tensor; no labels where the task looks at none."""
    if isinstance(images, Tensor) and (labels is not None or task.label_free):
        return images, labels
    if labels is not None:
        raise DataError("expected labels within the batches or beside one tensor of images, got both.")
    if task.label_free:
        found, given = list(each_images(images)), None
    else:
        pairs = list(each_labelled(images))
        found, given = [part for part, _ in pairs], [part for _, part in pairs]
    if not found:
        raise DataError("sensitivities need at least one batch of images, got none.")
    return in_one(found, "images"), None if given is None else in_one(given, "labels")
