# SPDX-License-Identifier: MIT
"""Fine-tuning ends with a batch norm that knows the final weights."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch

from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, TrainSettings, fine_tune, quantize
from bitwright.training.fine_tune import CALIBRATION_BATCH
from training.small import digits, small_graph

SETTINGS = TrainSettings(epochs=1, learning_rate=0.05, data_fraction=0.1)


@pytest.mark.parametrize("free_norm", [True, False])
def test_the_norm_is_settled_after_training(free_norm: bool) -> None:
    """Free statistics are those of the calibration images under the trained weights; fixed ones are left as they were."""
    graph = small_graph()
    scheme = Scheme.uniform(graph.layers, Precision(3, 4))
    before, _ = fine_tune(graph, scheme, digits(), TrainSettings(epochs=0), free_norm=free_norm, calibration_images=256)
    model, _ = fine_tune(graph, scheme, digits(), SETTINGS, free_norm=free_norm, calibration_images=256)
    settled = copy.deepcopy(model)
    images, _ = digits().calibration(256, SETTINGS.seed)
    settled.settle_norm(torch.split(images, CALIBRATION_BATCH))
    expected = (settled if free_norm else before).state_dict()
    statistics = [name for name in expected if name.endswith(("running_mean", "running_var"))]
    assert statistics
    assert all(torch.equal(model.state_dict()[name], expected[name]) for name in statistics)
    moved = [not torch.equal(model.state_dict()[name], before.state_dict()[name]) for name in statistics]
    assert any(moved) == free_norm


def test_there_is_one_default_for_batch_norm() -> None:
    """A loop of one's own around `quantize` trains as `fine_tune` does, and every option has a name."""
    whole, own = inspect.signature(fine_tune).parameters, inspect.signature(quantize).parameters
    module = inspect.signature(QuantizedModel).parameters
    for name in ("ranges", "free_norm"):
        assert whole[name].default == own[name].default == module[name].default
    assert whole["act_range_momentum"].default == own["momentum"].default == module["momentum"].default
    assert all(option.kind is not inspect.Parameter.VAR_KEYWORD for option in (*whole.values(), *own.values()))
