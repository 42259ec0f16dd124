# SPDX-License-Identifier: MIT
"""Whether a quantized model has integers that are worth proving."""

from __future__ import annotations

from torch import Tensor

from bitwright.errors import LoweringError
from bitwright.training.model import QuantizedModel


def check_ready(model: QuantizedModel) -> None:
    """Refuse a model whose scales nobody has set, or one with numbers that are none.

    Raises:
        LoweringError: If it is not calibrated, or a weight, statistic or scale is not finite.
    """
    name = model.plan.graph.model
    if not model.calibrated:
        raise LoweringError(
            f"{name} is not calibrated: the scales of its activations are those it was made with. Call calibrate(model, "
            "batches) with some hundred images first, or load a checkpoint that was calibrated."
        )
    for key, tensor in model.state_dict().items():
        bad = _not_finite(tensor)
        if bad:
            raise LoweringError(
                f"'{key.removeprefix('network.')}' of {name} has {bad} of {tensor.numel()} values that are NaN or infinite: "
                "the training diverged, or the file is damaged. Go back to an earlier checkpoint, with a smaller learning rate."
            )


def _not_finite(tensor: Tensor) -> int:
    return int((~tensor.isfinite()).sum()) if tensor.is_floating_point() else 0
