# SPDX-License-Identifier: MIT
"""Narrowed models cannot saturate, lose little, and are exact on the fastest kernels of CPUs without 8-bit dot products."""

from __future__ import annotations

from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bitwright.benchmark import environment, load_engine
from bitwright.errors import ExportError
from bitwright.export import Target, export_onnx
from bitwright.integer import IntegerModel, QuantParams, logits, lower, run
from bitwright.integer.bounds import SATURATING_SUM, largest_pair_sum
from bitwright.integer.saturation import fit_pairs, narrowed, pair_limit
from bitwright.report import lowering_summary
from bitwright.scheme import Precision, Scheme
from bitwright.training import QuantizedModel, calibrate, quantize, train
from export.models import RESNET20, graph_of
from training.small import digits, few, small_quantized


@cache
def resnet20(precision: str, residual_bits: int = 8) -> tuple[QuantizedModel, IntegerModel, IntegerModel, Tensor]:
    """A calibrated network, lowered as it is and narrowed; its certificates are those of the latter; and images."""
    graph, images = graph_of(RESNET20, 32)
    uniform = Scheme.uniform(graph.layers, Precision.parse(precision))
    model = calibrate(quantize(graph, Scheme(uniform.name, uniform.layers, residual_bits)), [images], "minmax")
    plain = lower(model)
    return model, plain, lower(model, avoid_saturation=True), images


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
    limit = pair_limit(QuantParams(8, False, 0.1))
    good = largest_pair_sum(integers[:4].numpy().astype(np.int8), QuantParams(8, False, 0.1)) <= SATURATING_SUM
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
def test_narrowed_models_cannot_saturate(precision: str, residual_bits: int) -> None:
    """Every layer's pairs fit 16 bits; layers that were safe keep every weight; the facts say what changed."""
    _, plain, narrow, _ = resnet20(precision, residual_bits)
    unsafe = saturating(plain)
    assert unsafe
    assert not saturating(narrow)
    assert all(fact["avx2_safe"] for fact in narrow.facts.values() if "avx2_safe" in fact)
    changed = {name for name, fact in narrow.facts.items() if fact.get("channels_narrowed")}
    assert changed == unsafe
    summary = lowering_summary(narrow)
    assert set(summary["narrowed"]) == unsafe
    assert summary["layers_unsafe_on_avx2"] == []
    for name, op in plain.layers().items():
        if name not in unsafe:
            assert np.array_equal(op.weight, narrow.layers()[name].weight)
        else:
            fact = narrow.facts[name]
            assert 0 < fact["weight_error_before"] < fact["weight_error_after"] < 0.03
    if (
        precision == "W8A7"
    ):  # seven-bit activations alone keep all layers safe but those whose inputs stay at eight bits
        assert unsafe <= {"features.init_block.conv", "output"}


@pytest.mark.parametrize("residual_bits", [8, 16])
def test_narrowed_models_are_evaluated_as_lowered(residual_bits: int) -> None:
    """The QuantizedModel, with the proved constants, gives every integer of the narrowed model."""
    model, _, _, images = resnet20("W8A8", residual_bits)
    narrow = lower(model, avoid_saturation=True)
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
    train(model, few(512), epochs=2, learning_rate=0.05)
    plain, narrow = lower(model), lower(model, avoid_saturation=True)
    assert any(fact.get("channels_narrowed") for fact in narrow.facts.values())
    before, after = [], []
    for images, labels in digits().batches("test", 250):
        before.append(logits(plain, images).argmax(1) == labels)
        after.append(logits(narrow, images).argmax(1) == labels)
    was, is_now = torch.cat(before), torch.cat(after)
    lost, won = int((was & ~is_now).sum()), int((is_now & ~was).sum())
    assert int(was.sum()) > 120
    assert lost + won < 100
    assert (lost - won) ** 2 <= 9 * max(lost + won, 1)
