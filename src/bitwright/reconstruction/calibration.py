# SPDX-License-Identifier: MIT
"""What every method here begins with: a model whose scales somebody has set."""

from __future__ import annotations

from bitwright.errors import TrainingError
from bitwright.training.model import QuantizedModel


def require_calibrated(model: QuantizedModel) -> None:
    """Refuse a model whose integers say nothing yet.

    Raises:
        TrainingError: If it was never calibrated.
    """
    if not model.calibrated:
        raise TrainingError(
            f"{model.plan.graph.model} is not calibrated, so its integers say nothing yet. Call calibrate(model, batches) first."
        )
