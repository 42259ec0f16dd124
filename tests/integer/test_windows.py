# SPDX-License-Identifier: MIT
"""Windows from calibration to integers: what is trained, stored and lowered is the same, wherever they lie."""

from __future__ import annotations

from math import isnan
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from bitwright.errors import FileFormatError
from bitwright.graph import capture
from bitwright.integer import IntegerModel, load, prepare, run
from bitwright.quantizer import TensorFormat
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, Ranges, TrainSettings, calibrate, quantize, train
from integer.certified import certified
from training.small import digits, few, small_graph, small_quantized
from windows import windows


def assert_lowered_as_trained(model: QuantizedModel, images: Tensor) -> IntegerModel:
    """Every tensor's integers of the forward, the reference executor and the prepared model."""
    integer = certified(model)
    got: dict[str, Tensor] = {}
    expected: dict[str, Tensor] = {}
    with torch.no_grad():
        model(images, lambda name, value: got.__setitem__(name, value.values))
    run(integer, images, expected.__setitem__)
    assert {
        name: int((got[name].double() != value.double()).sum()) for name, value in expected.items()
    } == dict.fromkeys(expected, 0)
    assert torch.equal(prepare(integer).run(images), expected[integer.outputs["logits"].tensor])
    return integer


@settings(max_examples=6)
@given(st.data(), st.sampled_from(["W8A8", "W4A4", "W2A2", "W5A3"]), st.sampled_from([8, 16]))
def test_any_windows_are_lowered_as_trained(data: st.DataObject, precision: str, residual_bits: int) -> None:
    """Windows anywhere, after a step of training: every tensor that may be negative can have any."""
    model = small_quantized(precision, residual_bits=residual_bits)
    train(model, few(64), TrainSettings(epochs=1, learning_rate=0.01))
    for name in sorted(model.plan.asymmetric - model.plan.accumulators):
        quantizer = model.activation_quantizer(name)
        bits = quantizer.format.bit_width
        quantizer.place(data.draw(windows(bits, bits)), float(quantizer.scale.detach()))
    integer = assert_lowered_as_trained(model, digits().calibration(16)[0])
    for name in model.plan.asymmetric - model.plan.accumulators:
        assert integer.formats[name].format == model.activation_quantizer(name).format


class Clamped(nn.Module):
    """A tensor that hardly goes below zero, between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, 2, 1)
        self.last = nn.Linear(8, 10)
        self.first.weight.data.mul_(4)

    def forward(self, images: Tensor) -> Tensor:
        values = nn.functional.hardtanh(self.first(images), -0.1, 3.0)
        return self.last(self.second(values).mean((2, 3)))


@pytest.mark.parametrize("activations", ["asymmetric", "symmetric"])
def test_a_clamp_just_below_zero_uses_all_codes(activations: str) -> None:
    """In the integers of the lowered network: 16 codes at 4 bits, where symmetric formats leave half."""
    torch.manual_seed(0)
    graph = capture(Clamped().eval(), (1, 28, 28))
    layers = dict.fromkeys(graph.layers, Precision(4, 4))
    model = calibrate(quantize(graph, Scheme("x", layers, activations=activations)), [digits().calibration(64)[0]])
    images = digits().calibration(64)[0]
    integer = assert_lowered_as_trained(model, images)
    seen: dict[str, Tensor] = {}
    run(integer, images, seen.__setitem__)
    source = integer.layers()[[*integer.layers()][1]].inputs[0]
    assert integer.formats[source].bit_width == 4
    assert len(seen[source].unique()) == (16 if activations == "asymmetric" else 8)


@pytest.mark.parametrize("ranges", list(Ranges))
def test_windows_are_kept_in_files(ranges: Ranges, tmp_path: Path) -> None:
    """Of a training's state as of an integer model: what is read back computes the same."""
    model = small_quantized("W4A4", ranges=ranges)
    train(model, few(64), TrainSettings(epochs=1, learning_rate=0.01))
    again = small_quantized("W4A4", ranges=ranges)
    again.load_state_dict(model.state_dict())
    found = {name: model.activation_quantizer(name).format for name in model.plan.asymmetric - model.plan.accumulators}
    assert any(window not in (TensorFormat.symmetric(4), TensorFormat.symmetric(8)) for window in found.values())
    assert found == {name: again.activation_quantizer(name).format for name in found}
    integer = certified(again)
    integer.save(tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    images = digits().calibration(8)[0]
    assert loaded.formats == integer.formats
    assert torch.equal(run(loaded, images), run(certified(model), images))
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "old.safetensors").write_bytes(data.replace(b"bitwright.integer.4", b"bitwright.integer.2"))
    with pytest.raises(FileFormatError, match="is damaged, or another version of Bitwright wrote it: make it again"):
        load(tmp_path / "old.safetensors")


def test_a_moving_range_moves_its_window() -> None:
    """`ema` follows both ends: their weighted means, in the smallest steps that hold them; -1 keeps the widest."""
    graph = small_graph()
    scheme = Scheme.uniform(graph.layers, Precision(4, 4))
    for momentum, ends in ((0.5, (-1.0, 10.0)), (-1.0, (-1.5, 14.0))):
        quantizer = quantize(graph, scheme, ranges="ema", momentum=momentum).activation_quantizer("input")
        quantizer.place(TensorFormat.starting(8, -1), 0.5)
        quantizer.ends.copy_(torch.tensor([-0.5, 6.0]))
        quantizer.observe(torch.tensor(-1.5), torch.tensor(14.0))
        assert tuple(quantizer.ends.tolist()) == ends
        scale = float(quantizer.scale)
        assert quantizer.format.quant_min * scale <= ends[0] * (1 - 1e-6)
        assert ends[1] * (1 - 1e-6) <= quantizer.format.quant_max * scale
        assert scale < 1.05 * (ends[1] - ends[0]) / 255
        quantizer.observe(torch.tensor(float("nan")), torch.tensor(1.0))
        assert isnan(float(quantizer.scale))
