# SPDX-License-Identifier: MIT
"""What was trained is what was lowered: after real training, on all held-out images, in every tensor."""

from __future__ import annotations

import json
from itertools import product

import pytest
import torch
from torch import Tensor

from bitwright.errors import LoweringError
from bitwright.integer import certification_effect, logits, lower, lowered, run
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, TrainSettings, calibrate, evaluate, quantize, train
from integer.certified import certified
from training.small import digits, few, small_graph, small_quantized


def trained(scheme: str, residual_bits: int) -> QuantizedModel:
    """The small network after two epochs of training under a scheme."""
    if scheme != "mixed":
        model = small_quantized(scheme, residual_bits=residual_bits)
    else:
        graph = small_graph()
        bits = ["W8A8", "W2A4", "W6A3", "W3A8", "W4A5"]
        layers = {layer: Precision.parse(text) for layer, text in zip(graph.layers, bits, strict=True)}
        model = quantize(graph, Scheme("mixed", layers, residual_bits), free_norm=True)
        calibrate(model, [digits().calibration(128)[0]])
    train(model, few(512), TrainSettings(epochs=2, learning_rate=0.05))
    return model.eval()


QUICK = (("W8A8", 8), ("W4A4", 16), ("W2A2", 8), ("mixed", 16))


@pytest.mark.parametrize(
    ("scheme", "residual_bits"),
    [
        pytest.param(scheme, bits, marks=() if (scheme, bits) in QUICK else pytest.mark.slow)
        for scheme, bits in product(("W8A8", "W4A4", "W2A2", "mixed"), (8, 16))
    ],
)
def test_every_integer_is_equal(scheme: str, residual_bits: int) -> None:
    """The float32 forward with proved constants gives the integers of the integer model: 0 of all differ on 1,000 images."""
    model = trained(scheme, residual_bits)
    integer = certified(model)
    held_out = digits().batches("test", 250)
    images_seen = 0
    for images, _ in held_out:
        got: dict[str, Tensor] = {}
        expected: dict[str, Tensor] = {}
        with torch.no_grad():
            real = model(images, lambda name, value, into=got: into.__setitem__(name, value.values))
        run(integer, images, lambda name, value, into=expected: into.__setitem__(name, value))
        assert len(expected) == len(integer.ops) >= 9
        differing = {name: int((got[name].double() != value.double()).sum()) for name, value in expected.items()}
        assert sum(differing.values()) == 0, differing
        assert torch.equal(real.argmax(1), logits(integer, images).argmax(1))
        images_seen += len(images)
    assert images_seen == 1000

    effect = certification_effect(model, held_out)
    assert effect.after == evaluate(lambda images: logits(integer, images), held_out)
    assert effect.before.images == 1000
    assert effect.after.leading > 12
    # The last of 16 bits is often another; of 8 bits and fewer, hardly any is.
    assert effect.total.share < (0.05 if residual_bits == 8 else 0.5)
    assert abs(effect.after.leading - effect.before.leading) <= 3
    assert effect.tensors["input"].differing == 0
    assert model.certificates
    assert json.loads(json.dumps(effect.to_dict()))["elements"] == effect.total.elements > 1_000_000


def test_the_effect_counts_what_differs() -> None:
    """Counted by hand: with certificates of another scale of one layer, its integers differ, and those before it do not."""
    model = small_quantized("W4A4")
    certified(model)
    held_out = digits().batches("test", 500)
    with torch.no_grad():
        model.activation_quantizer("down.0").scale.mul_(1.5)
    effect = certification_effect(model, held_out)
    proved: dict[str, Tensor] = {}
    own: dict[str, Tensor] = {}
    certificates = model.certificates
    images = torch.cat([images for images, _ in held_out])
    with torch.no_grad():
        model(images, lambda name, value: proved.__setitem__(name, value.values))
        model.certify({})
        model(images, lambda name, value: own.__setitem__(name, value.values))
    for name, count in effect.tensors.items():
        assert count.elements == own[name].numel()
        assert count.differing == int((own[name] != proved[name]).sum())
    assert effect.tensors["stem.0"].share < 0.001
    assert effect.tensors["down.0"].share > 0.1
    model.certify(certificates)


def test_an_unproved_model_has_no_effect() -> None:
    """Before lowering, and after more training, there is nothing to compare."""
    model = small_quantized("W4A4")
    with pytest.raises(LoweringError, match="certify it with those of `lowered` first"):
        certification_effect(model, few(64))
    certified(model)
    assert model.certificates
    model.train()
    with pytest.raises(LoweringError, match="certify it with those of `lowered` first"):
        certification_effect(model, few(64))


def test_calibrating_drops_the_proofs() -> None:
    """New scales make old certificates wrong."""
    model = small_quantized("W4A4")
    certified(model)
    calibrate(model, [digits().calibration(32)[0]])
    assert not model.certificates


def test_channels_of_gain_zero_are_their_bias() -> None:
    """A channel whose gain is zero or tiny has no weights left to see; its constant output survives lowering."""
    model = small_quantized("W8A8")
    with torch.no_grad():
        for value, (gain, offset) in enumerate([(0.0, 1.5), (0.0, 0.0), (1e-12, 1.0), (-0.5, 0.3)]):
            model.get_parameter("network.down.1.weight")[value] = gain
            model.get_parameter("network.down.1.bias")[value] = offset
    images = digits().calibration(64)[0]
    calibrate(model, [images])
    integer = certified(model)
    seen: dict[str, Tensor] = {}
    run(integer, images, lambda name, value: seen.__setitem__(name, value))
    scale = integer.formats["down.0"].scale
    assert seen["down.0"][:, 0].unique().tolist() == [round(1.5 / scale)]
    assert seen["down.0"][:, 1].unique().tolist() == [0]
    assert seen["down.0"][:, 2].unique().tolist() == [round(1.0 / scale)]
    assert len(seen["down.0"][:, 3].unique()) > 10
    got: dict[str, Tensor] = {}
    with torch.no_grad():
        model(images, lambda name, value: got.__setitem__(name, value.values))
    assert all(torch.equal(got[name].double(), value.double()) for name, value in seen.items())


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_lowering_leaves_the_model_as_it_was(training: bool) -> None:
    """A model may be lowered between two steps of its training: modes, certificates, parameters and results stay."""
    model = small_quantized("W4A4")
    found = lowered(model, avoid_saturation=True, images=digits().calibration(8)[0]).certificates
    model.train(training)
    next(model.children()).eval()
    if not training:
        model.certify(found)
    modes, tensors = (
        [module.training for module in model.modules()],
        {k: v.clone() for k, v in model.state_dict().items()},
    )
    certificates = dict(model.certificates)
    lower(model, avoid_saturation=True, images=digits().calibration(8)[0])
    assert [module.training for module in model.modules()] == modes
    assert model.certificates == certificates
    assert bool(certificates) is not training
    assert all(torch.equal(tensors[key], value) for key, value in model.state_dict().items())
