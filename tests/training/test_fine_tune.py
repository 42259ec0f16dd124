# SPDX-License-Identifier: MIT
"""Fine-tuning ends with a batch norm that knows the final weights."""

from __future__ import annotations

import copy
import inspect
from pathlib import Path

import pytest
import torch

from bitwright.graph import Graph, capture
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, TrainSettings, fine_tune, quantize
from bitwright.training.fine_tune import CALIBRATION_BATCH
from bitwright.training.quantizers import QuantizerSettings
from training.small import SHAPE, SmallResidual, digits, small_graph

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
    module, scales = inspect.signature(QuantizedModel).parameters, QuantizerSettings()
    assert whole["free_norm"].default == own["free_norm"].default == module["free_norm"].default
    assert whole["ranges"].default == own["ranges"].default == scales.ranges
    assert whole["act_range_momentum"].default == own["momentum"].default == scales.momentum
    assert all(option.kind is not inspect.Parameter.VAR_KEYWORD for option in (*whole.values(), *own.values()))


def test_a_graph_and_its_file_train_alike(tmp_path: Path) -> None:
    """Training leaves networks in another memory layout than files have, and the layout decides the last bits of sums."""
    torch.manual_seed(0)
    graph = capture(SmallResidual().eval().to(memory_format=torch.channels_last), SHAPE, name="small")
    graph.save(tmp_path / "graph")
    loaded = Graph.load(tmp_path / "graph")
    assert {name: value.stride() for name, value in graph.parameters.items()} == {
        name: value.stride() for name, value in loaded.parameters.items()
    }
    scheme = Scheme.uniform(graph.layers, Precision(4, 4))
    settings = TrainSettings(epochs=1, learning_rate=0.05, data_fraction=0.05, batch_size=50)
    first, second = (fine_tune(each, scheme, digits(), settings)[0] for each in (graph, loaded))
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
    assert list(first.float_graph().parameters["stem.0.weight"].stride()) == [9, 9, 3, 1]
