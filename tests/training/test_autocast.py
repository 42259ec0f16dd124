# SPDX-License-Identifier: MIT
"""Under autocast and mixed precision, training and evaluation compute the same integers as without."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from bitwright.graph import FloatModel, Graph, capture
from bitwright.integer import prepare, run
from bitwright.scheme import Precision, Scheme
from bitwright.sensitivity import SensitivitySettings, measure_sensitivity
from bitwright.training import QuantizedModel, Ranges, TrainSettings, calibrate, quantize, train
from integer.certified import certified
from training.small import SHAPE, SmallResidual, digits, few, small_graph

HALVES = [torch.bfloat16, torch.float16]

graph = cache(small_graph)


def quantized(ranges: Ranges = Ranges.LEARNED, *, free_norm: bool = True) -> QuantizedModel:
    """The small network at W4A4, calibrated."""
    found: Graph = graph()
    scheme = Scheme.uniform(found.layers, Precision(4, 4))
    return calibrate(
        quantize(found, scheme, ranges=ranges, free_norm=free_norm), [digits().calibration(16)[0]], "minmax"
    )


@pytest.mark.parametrize("ranges", list(Ranges))
@pytest.mark.parametrize("free_norm", [True, False])
def test_a_step_is_that_of_full_precision(ranges: Ranges, free_norm: bool) -> None:
    """In every norm mode and range mode: the same logits, gradients, ranges and statistics, to the bit."""
    images, labels = digits().calibration(16)
    model = quantized(ranges, free_norm=free_norm).train()
    seen = []
    for kind in (None, *HALVES):
        other = copy.deepcopy(model)
        with torch.autocast("cpu", kind, enabled=kind is not None):
            logits = other(images)
        F.cross_entropy(logits, labels).backward()  # which autocast would compute in half precision on processors
        gradients = {name: parameter.grad for name, parameter in other.named_parameters()}
        seen.append({**other.state_dict(), **{f"{name} gradient": value for name, value in gradients.items()}})
    for other in seen[1:]:
        for name, value in other.items():
            expected = seen[0][name]
            assert (value is None) == (expected is None), name
            assert value is None or torch.equal(value, expected), name


@pytest.mark.parametrize("kind", HALVES)
def test_everything_between_model_and_integers(kind: torch.dtype) -> None:
    """Capture, calibration, settling, lowering and the integer model itself do not see the autocast around them."""
    images, labels = digits().calibration(16)

    def way() -> list[torch.Tensor]:
        torch.manual_seed(0)
        found = capture(SmallResidual().eval(), SHAPE)
        table = measure_sensitivity(found, images[:4], labels[:4], SensitivitySettings(activations=False, max_probes=8))
        model = calibrate(quantize(found, Scheme.uniform(found.layers, Precision(4, 8))), [images], "minmax")
        model.settle_norm([images] * 4)
        integer = certified(model)
        prepared = prepare(integer)
        traces = torch.tensor([layer.trace for layer in table.layers])
        return [traces, model(images), prepared.run(images), run(integer, images), prepared.logits(images)]

    expected = way()
    with torch.autocast("cpu", kind):
        got = way()
    assert all(torch.equal(one, other) for one, other in zip(got, expected, strict=True))
    assert torch.equal(got[1], got[4])  # the certified module's logits are the integer model's


@pytest.fixture
def accelerated() -> Iterator[Callable[[str], Accelerator]]:
    """Accelerators of one mixed precision after another, which Accelerate keeps for the whole process."""

    def make(precision: str) -> Accelerator:
        AcceleratorState._reset_state(True)
        return Accelerator(cpu=True, mixed_precision=precision)

    yield make
    AcceleratorState._reset_state(True)


@pytest.mark.parametrize("free_norm", [True, False])
def test_mixed_precision_of_accelerate(accelerated: Callable[[str], Accelerator], free_norm: bool) -> None:
    """Trained by an Accelerator in bfloat16, a model has the weights of float32, and computes outside of its autocast."""
    results = []
    for precision in ("bf16", "no"):
        model = quantized(free_norm=free_norm)
        train(model, few(64, 32), TrainSettings(epochs=1, learning_rate=0.01), accelerator=accelerated(precision))
        assert model.forward.__func__ is QuantizedModel.forward
        results.append(model.state_dict())
    assert all(torch.equal(value, results[1][name]) for name, value in results[0].items())


def test_a_float_network_is_captured_after_mixed_precision(accelerated: Callable[[str], Accelerator]) -> None:
    """What mixed precision trained computes in float32 again: its graph is the network."""
    network = SmallResidual()
    train(network, few(64), TrainSettings(epochs=1, learning_rate=0.01), accelerator=accelerated("bf16"))
    images = digits().calibration(8)[0]
    with torch.no_grad():
        torch.testing.assert_close(FloatModel(capture(network.eval(), SHAPE)).eval()(images), network(images))
