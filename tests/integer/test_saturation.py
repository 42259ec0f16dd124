# SPDX-License-Identifier: MIT
"""Models made safe cannot saturate, lose little, and are exact on the fastest kernels of CPUs without 8-bit dot products."""

from __future__ import annotations

import pickle
from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from bitwright.benchmark import environment, load_engine
from bitwright.errors import ExportError
from bitwright.export import Target, export_onnx
from bitwright.graph import capture
from bitwright.integer import IntegerModel, QuantParams, logits, run
from bitwright.integer.lowering.saturation import fit_pairs, narrowed, pair_limit
from bitwright.integer.lowering.saturation_choice import SaturationChoice, against_saturation
from bitwright.integer.proof.bounds import SATURATING_SUM, largest_pair_sum
from bitwright.report import lowering_summary
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, TrainSettings, calibrate, quantize, train
from bitwright.training.quantized import Quantized
from export.models import RESNET20, graph_of
from integer.certified import certified
from training.small import digits, few, small_quantized


@cache
def resnet20(precision: str, residual_bits: int = 8) -> tuple[QuantizedModel, IntegerModel, IntegerModel, Tensor]:
    """A calibrated network, lowered as it is and narrowed; its certificates are those of the latter; and images."""
    graph, images = graph_of(RESNET20, 32)
    uniform = Scheme.uniform(graph.layers, Precision.parse(precision))
    model = calibrate(quantize(graph, Scheme(uniform.name, uniform.layers, residual_bits)), [images], "minmax")
    plain = certified(model)
    return model, plain, certified(model, avoid_saturation=True, images=images), images


def saturating(model: IntegerModel) -> set[str]:
    """The layers with a pair of products beyond int16, by all pairs of their two largest and two smallest weights."""
    found = set()
    for name, op in model.layers().items():
        params = model.formats[op.inputs[0]]
        rows = np.sort(op.weight.reshape(len(op.weight), -1).astype(int), axis=1)
        pairs = [rows[:, -2:].clip(min=0).sum(1).max(), -rows[:, :2].clip(max=0).sum(1).min()]
        if max(pairs) * (params.quant_max - params.quant_min) > 2**15 - 1:
            found.add(name)
    return found


@given(st.lists(st.lists(st.integers(-127, 127), min_size=4, max_size=4), min_size=1, max_size=3), st.integers(2, 128))
def test_fitted_pairs_are_the_nearest(rows: list[list[int]], limit: int) -> None:
    """No pair of one sign sums to more, and no cut of the largest weight and the others is nearer, for either sign."""
    fitted = fit_pairs(torch.tensor(rows, dtype=torch.float32), limit).to(torch.int64).numpy()
    for row, got in zip(np.array(rows), fitted, strict=True):
        for sign in (1, -1):
            side, result = (sign * row).clip(min=0), (sign * got).clip(min=0)
            assert np.sort(result)[-2:].sum() <= limit
            best = min(
                ((side - np.minimum(side, [limit - c if i == top else c for i in range(4)])) ** 2).sum()
                for top, c in product(range(4), range(limit // 2 + 1))
            )
            assert ((side - result) ** 2).sum() == (0 if np.sort(side)[-2:].sum() <= limit else best)


def test_narrowing_is_minimal(generator: torch.Generator) -> None:
    """Channels without a too large pair keep their integers; the others lose no more than they would at seven bits."""
    weight = torch.randn(16, 32, 3, 3, generator=generator)
    weight[:4] *= 0.25
    scale = torch.full((16,), float(weight.abs().max()) / 127)
    integers = (weight / scale[0]).round()
    limit = pair_limit(QuantParams.unsigned(8, 0.1))
    good = largest_pair_sum(integers[:4].numpy().astype(np.int8), QuantParams.unsigned(8, 0.1)) <= SATURATING_SUM
    assert good
    result = narrowed(weight, scale, integers, 8, limit)
    assert torch.equal(result.integers[:4], integers[:4])
    assert torch.equal(result.factor[:4], torch.ones(4))
    assert result.channels == int((result.integers != integers).flatten(1).any(1).sum()) > 0
    halved = ((weight / scale[0] / 2).round().clamp(-63, 63) * 2 * scale[0] - weight).square().flatten(1).sum(1)
    real = (result.integers * (scale * result.factor).reshape(-1, 1, 1, 1) - weight).square().flatten(1).sum(1)
    assert bool((real <= halved + 1e-6).all())
    assert result.error_before <= result.error_after < 0.02
    again = narrowed(weight, scale * result.factor, result.integers, 8, limit)
    assert again.channels == 0
    assert again.error_before == again.error_after == pytest.approx(result.error_after)


@pytest.mark.parametrize(("precision", "residual_bits"), [("W8A8", 8), ("W4A4", 8), ("W8A8", 16), ("W8A7", 8)])
def test_safe_models_cannot_saturate(precision: str, residual_bits: int) -> None:
    """Every layer's pairs fit 16 bits; layers that were safe keep every weight; the facts say what changed."""
    _, plain, safe, _ = resnet20(precision, residual_bits)
    unsafe = saturating(plain)
    assert unsafe
    assert not saturating(safe)
    assert all(fact["avx2_safe"] for fact in safe.facts.values() if "avx2_safe" in fact)
    assert {name for name, fact in safe.facts.items() if "against_saturation" in fact} == unsafe
    summary = lowering_summary(safe)
    narrow, inputs = summary["narrowed"], summary["seven_bit_inputs"]
    assert set(narrow) | set(inputs) == unsafe
    assert not set(narrow) & set(inputs)
    assert summary["layers_unsafe_on_avx2"] == []
    for name, op in plain.layers().items():
        moved = any(made.facts[name].get("channels_rescaled") for made in (plain, safe))  # to a scale that has a proof
        assert moved or np.array_equal(op.weight, safe.layers()[name].weight) == (name not in narrow)
    for fact in narrow.values():
        assert fact["logit_error_by_weights"] <= fact["logit_error_by_activations"]
        assert 0 < fact["weight_error_before"] < fact["weight_error_after"] < 0.03
    for fact in inputs.values():
        assert fact["logit_error_by_activations"] < fact["logit_error_by_weights"]
    if precision == "W8A7":
        # Seven-bit activations alone keep all layers safe but those whose inputs stay at eight bits.
        assert unsafe <= {"features.init_block.conv", "output"}


def seven_bit(model: IntegerModel) -> set[str]:
    """Tensors whose last bit was dropped, as the facts name them."""
    return {fact["seven_bit_tensor"] for fact in model.facts.values() if "seven_bit_tensor" in fact}


class Joined(nn.Module):
    """Two branches that a concatenation joins, read by a convolution and, through the same scale, by another concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 8, 1)
        self.after, self.fc = nn.Conv2d(16, 16, 3, 1, 1), nn.Linear(32, 10)

    def forward(self, images: Tensor) -> Tensor:
        features = torch.relu(self.stem(images))
        both = torch.cat([torch.relu(self.left(features)), self.right(features)], 1)
        joined = torch.cat([F.max_pool2d(both, 2), F.avg_pool2d(torch.relu(self.after(both)), 2)], 1)
        return self.fc(joined.mean((2, 3)))


def joined() -> QuantizedModel:
    """Calibrated on digits."""
    torch.manual_seed(0)
    graph = capture(Joined().eval(), (1, 28, 28), name="joined")
    return calibrate(quantize(graph, Scheme.uniform(graph.layers, Precision(8, 8))), [digits().calibration(64)[0]])


def test_formats_lose_a_bit_wherever_they_are_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tensors of one quantizer have the format of seven bits; all else of the model stays as it was, multipliers included."""
    monkeypatch.setattr(SaturationChoice, "seven_bits", property(lambda choice: choice.tensor != "input"))
    for model in (joined(), small_quantized("W8A8"), small_quantized("W8A8", residual_bits=16)):
        plain, safe = certified(model), certified(model, avoid_saturation=True, images=digits().calibration(8)[0])
        narrower = seven_bit(safe)
        assert narrower
        quantizer_of = model.plan.quantizer_of
        for name, params in plain.formats.items():
            assert params.bit_width in (8, 16)
            same = quantizer_of[name] not in narrower
            expected = params if same else QuantParams(params.format.halved(), 2 * params.scale)
            assert expected.bit_width == params.bit_width - (not same)
            assert safe.formats[name] == expected
        kept = 0
        for before, after in zip(plain, safe, strict=True):
            tensors = {quantizer_of[name] for name in (before.name, *before.inputs)}
            narrowed_weights = "channels_narrowed" in safe.facts.get(before.name, {})
            if not tensors & narrower and not narrowed_weights:
                kept += 1
                assert pickle.dumps(before) == pickle.dumps(after)
        assert kept
        for name, precision in safe.scheme.layers.items():
            read = quantizer_of[model.plan.graph.layers[name].inputs[0]]
            assert precision.act_bits == (7 if read in narrower else 8)
        images = digits().calibration(100, seed=1)[0]
        got: dict[str, Tensor] = {}
        expected_values: dict[str, Tensor] = {}
        with torch.no_grad():
            model(images, lambda name, value, into=got: into.__setitem__(name, value.values))  # type: ignore[misc]
        run(safe, images, expected_values.__setitem__)
        assert all(torch.equal(got[name].double(), value.double()) for name, value in expected_values.items())


class OneLogit(nn.Module):
    """A single output, of which random signs leave no doubt."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 16, 3, 2, 1), nn.Linear(16, 1)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(torch.relu(self.conv(images)), 1).flatten(1))


def test_the_expected_change_is_what_the_last_layer_sees() -> None:
    """What is linear up to the logits, pooled values of 7 bits and narrowed weights of the classifier, is foreseen exactly."""
    torch.manual_seed(0)
    graph = capture(OneLogit().eval(), (1, 28, 28), name="one")
    images = digits().calibration(24)[0]
    model = calibrate(quantize(graph, Scheme.uniform(graph.layers, Precision(8, 8))), [images], "minmax")
    model.certify({})
    with torch.no_grad():
        found = against_saturation(model, images)
        (choice,) = [choice for choice in found.chosen.values() if choice.layers == ("fc",)]
        seen: dict[str, Quantized] = {}
        real = model(images, seen.__setitem__).double()
        (final,) = model.plan.accumulators
        values, unit = seen[choice.tensor], seen[final].scale
        (source,) = [seen[node.inputs[0]] for node in model.plan.graph if node.name == choice.tensor]
        mean = source.values.double().mean((2, 3)) * (source.scale / values.scale).double()
        coarse = 2 * (mean / 2).round().clamp(0, 127)
        real_weight = model.parameters_by_name()["fc.weight"]
        weight, scale = model.weight_quantizer("fc")(real_weight)
        narrow = narrowed(real_weight, scale, weight, 8, 128)
        by_activations = (coarse - values.values.flatten(1)) @ weight.double().T * unit
        step = (narrow.integers * narrow.factor[:, None] - weight).double()
        by_weights = values.values.flatten(1).double() @ step.T * unit
    for change, expected in ((by_activations, choice.activations_error), (by_weights, choice.weights_error)):
        assert 0 < expected == pytest.approx(float((change.square().sum() / real.square().sum()).sqrt()), rel=1e-4)


def test_choosing_costs_less_than_either_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """On trained weights and real digits, the logits move less with the better of both for each format than with one for all.

    Errors of formats can cancel: trained at a rate of 0.05 on two threads, the same network moves by a hundredth more.
    """
    model = small_quantized("W8A8")
    train(model, few(512), TrainSettings(epochs=2, learning_rate=0.02))
    test, _ = digits().test.read(range(500))
    plain = logits(certified(model), test)
    chosen_on = digits().calibration(64)[0]

    def change() -> float:
        steps: list[tuple[int, int]] = []
        safe = certified(
            model, avoid_saturation=True, images=chosen_on, progress=lambda done, total: steps.append((done, total))
        )
        assert steps[-1][0] == steps[-1][1]
        assert [done for done, _ in steps] == list(range(1, len(steps) + 1))
        assert len({total for _, total in steps}) == 1
        return float((logits(safe, test) - plain).square().sum())

    both = change()
    assert len(seven_bit(certified(model, avoid_saturation=True, images=chosen_on))) > 0
    alone = []
    without = certified(model, avoid_saturation=True)
    assert {fact["against_saturation"] for fact in without.facts.values() if "against_saturation" in fact} == {
        "narrower weights"
    }
    assert without.scheme == model.plan.scheme
    for answer in (False, True):
        monkeypatch.setattr(SaturationChoice, "seven_bits", property(lambda _, answer=answer: answer))
        alone.append(change())
    assert both < min(alone)


@pytest.mark.parametrize("residual_bits", [8, 16])
def test_safe_models_are_evaluated_as_lowered(residual_bits: int) -> None:
    """The QuantizedModel, with the proved constants, gives every integer of the safe model."""
    model, _, _, images = resnet20("W8A8", residual_bits)
    narrow = certified(model, avoid_saturation=True, images=images)
    assert seven_bit(narrow)
    got: dict[str, Tensor] = {}
    expected: dict[str, Tensor] = {}
    with torch.no_grad():
        model(images, lambda name, value: got.__setitem__(name, value.values))
    run(narrow, images, expected.__setitem__)
    assert sum(int((got[name].double() != value.double()).sum()) for name, value in expected.items()) == 0


def test_the_fastest_kernels_are_exact_for_narrowed_models_only(tmp_path: Path) -> None:
    """ONNX Runtime with int8 weights gives all logits of the narrowed model; without dot products, it misses the plain one's."""
    _, plain, narrow, images = resnet20("W8A8")
    export_onnx(narrow, tmp_path / "narrow.onnx", Target.AVX2)
    got = load_engine("onnxruntime", tmp_path / "narrow.onnx")(images.numpy())
    assert np.array_equal(got, run(narrow, images).numpy())
    with pytest.raises(
        ExportError, match=r"target 'avx2'.* 22 layers that can exceed them, first 'features\.init_block"
    ):
        export_onnx(plain, tmp_path / "plain.onnx", Target.AVX2)
    if environment().architecture != "x86_64" or environment().target is Target.VNNI:
        pytest.skip("this CPU has 8-bit dot products, which do not saturate")
    export_onnx(plain, tmp_path / "plain.onnx", Target.VNNI)
    wrong = load_engine("onnxruntime", tmp_path / "plain.onnx")(images.numpy())
    assert int((wrong != run(plain, images).numpy()).sum()) > 0


def test_accuracy_survives_narrowing() -> None:
    """On real digits, images that only one of the models gets right are few, and on either side as often, within three sigma."""
    model = small_quantized("W8A8")
    train(model, few(512), TrainSettings(epochs=2, learning_rate=0.05))
    plain, narrow = certified(model), certified(model, avoid_saturation=True)
    assert any("against_saturation" in fact for fact in narrow.facts.values())
    before, after = [], []
    for images, labels in digits().batches("test", 250):
        before.append(logits(plain, images).argmax(1) == labels)
        after.append(logits(narrow, images).argmax(1) == labels)
    was, is_now = torch.cat(before), torch.cat(after)
    lost, won = int((was & ~is_now).sum()), int((is_now & ~was).sum())
    assert int(was.sum()) > 120
    assert lost + won < 100
    assert (lost - won) ** 2 <= 9 * max(lost + won, 1)
