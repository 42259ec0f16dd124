# SPDX-License-Identifier: MIT
"""What is not calibrated, or not finite, is not lowered, and says so."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from bitwright.errors import BitwrightWarning, LoweringError
from bitwright.graph import Graph
from bitwright.integer import lower
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, calibrate, load_quantized, quantize, save_quantized
from training.small import digits, small_graph


@pytest.fixture(scope="module")
def graph() -> Graph:
    """The small network."""
    return small_graph()


def quantized(graph: Graph) -> QuantizedModel:
    """W8A8, not calibrated."""
    return quantize(graph, Scheme.uniform(graph.layers, Precision(8, 8)))


def test_an_uncalibrated_model_is_refused_and_warned_of(graph: Graph, tmp_path: Path) -> None:
    """Lowering refuses it, in this process and from a file; running it warns once, in training as in evaluation."""
    model, images = quantized(graph), digits().calibration(4)[0]
    with pytest.raises(LoweringError, match=r"small is not calibrated: .* Call calibrate\(model, batches\)"):
        lower(model)
    for training in (True, False):
        fresh = quantized(graph).train(training)
        with pytest.warns(BitwrightWarning, match="small is not calibrated"):
            fresh(images)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fresh(images)
    save_quantized(tmp_path / "raw", model)
    with pytest.raises(LoweringError, match="not calibrated"):
        lower(load_quantized(tmp_path / "raw"))
    calibrate(model, [images], "minmax")
    save_quantized(tmp_path / "calibrated", model)
    assert lower(load_quantized(tmp_path / "calibrated")).output_shapes == lower(model).output_shapes


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize(
    "name", ["network.down.0.weight", "network.down.0.bias", "network.down.1.running_var", "activations.stem/0.scale"]
)
def test_numbers_that_are_none_are_refused(graph: Graph, name: str, value: float) -> None:
    """NaN and infinity in weights, biases, statistics and scales are named, with what to do."""
    model = calibrate(quantized(graph), [digits().calibration(4)[0]], "minmax")
    with torch.no_grad():
        model.state_dict()[name].reshape(-1)[0] = value
    with pytest.raises(
        LoweringError, match=rf"'{name.removeprefix('network.')}' of small has 1 of \d+ values that are NaN"
    ):
        lower(model)
