# SPDX-License-Identifier: MIT
"""Mean average precision of boxes: torchmetrics', which counts as COCO's own tools do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.detection import MeanAveragePrecision

from bitwright.errors import DataError
from bitwright.extras import require
from bitwright.task.boxes import decoded


class BoxPrecision(Metric):
    """Mean average precision in percent, of the boxes that maps are decoded to.

    Args:
        key: `map`, the mean over overlaps of 0.5 to 0.95, or `map_50`, that at 0.5.

    Raises:
        MissingLibraryError: If pycocotools is not installed.

    Source:
        Lin et al. 2014, arXiv:1405.0312.
    """

    full_state_update = False

    def __init__(self, key: str) -> None:
        require("pycocotools", "mean average precision")
        super().__init__()
        self.key = key
        self.counted = MeanAveragePrecision(backend="pycocotools", sync_on_compute=False)

    def update(self, outputs: Any, targets: Tensor) -> None:
        """Count a batch: maps, and boxes [batch, boxes, 5]."""
        found = [{name: values.cpu() for name, values in image.items()} for image in decoded(outputs)]
        there = [rows[rows[:, 0] >= 0] for rows in targets.cpu()]
        self.counted.update(found, [{"boxes": rows[:, 1:].float(), "labels": rows[:, 0].long()} for rows in there])

    def compute(self) -> Tensor:
        """The percentage so far.

        Raises:
            DataError: If no image has a box, so that there is nothing to be precise about.
        """
        found = torch.as_tensor(self.counted.compute()[self.key], dtype=torch.float64)
        if found < 0:  # COCO's tools say -1
            raise DataError(
                "mean average precision needs at least one box, but no image has any: judge on other images."
            )
        return 100 * found
