# SPDX-License-Identifier: MIT
"""Reconstruction: learned rounding against its definition, and networks that come closer to their float outputs."""

from __future__ import annotations

import importlib
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitwright.errors import DataError, FileFormatError, TrainingError
from bitwright.graph.execute import execute
from bitwright.graph.nodes import Bounds
from bitwright.integer import run
from bitwright.quantizer import weight_format
from bitwright.reconstruction import LearnedRounding, ReconstructionSettings, blocks, compensate_rounding, reconstruct
from bitwright.reconstruction.descent import BlockDescent
from bitwright.reconstruction.dropping import DroppedRounding
from bitwright.reconstruction.rounding import annealed
from bitwright.reconstruction.unseen import in_forms
from bitwright.training import Checkpointing, QuantizedModel, Ranges, quantize
from bitwright.training.straight_through import clamp_round
from integer.certified import certified
from reliability.networks import tiny_graph, tiny_quantized
from training.small import digits, small_graph, small_quantized

BLOCKS = ReconstructionSettings(network_steps=0, batch_size=16)
QUICK = replace(BLOCKS, steps=60)


def distance(model: QuantizedModel, images: Tensor) -> float:
    """Mean squared error of the logits against the float network's."""
    graph = model.plan.source
    with torch.no_grad():
        return float((model(images) - execute(graph, graph.parameters, images)).square().mean())


def divergence(model: QuantizedModel, images: Tensor) -> float:
    """KL(float || integers) of the classes."""
    graph = model.plan.source
    with torch.no_grad():
        real, made = (given.double().softmax(1) for given in (execute(graph, graph.parameters, images), model(images)))
    return float((real * (real / made).log()).sum(1).mean())


@pytest.mark.parametrize("bits", [2, 4, 8])
def test_learned_rounding_starts_at_the_weights(bits: int) -> None:
    """Before the first step nothing is rounded, inside the range; every weight then becomes one of its two neighbours."""
    window = weight_format(bits)
    scaled = torch.linspace(window.quant_min - 1, window.quant_max + 1, 101).reshape(1, -1)
    rounding = LearnedRounding(scaled, window)
    inside = scaled.clamp(window.quant_min, window.quant_max)
    assert torch.allclose(rounding(scaled), inside, atol=1e-5)
    with torch.no_grad():
        rounding.variable.copy_(torch.randn_like(rounding.variable))
    integers = rounding.integers()
    assert torch.equal(integers, integers.round())
    assert int(integers.min()) >= window.quant_min
    assert int(integers.max()) <= window.quant_max
    assert bool(((integers - inside).abs() <= 1).all())


def test_indecision_is_the_papers_term() -> None:
    """Zero where h is 0 or 1, largest at a half, by the literal formula in between."""
    rounding = LearnedRounding(torch.zeros(1, 3), weight_format(8))
    with torch.no_grad():
        rounding.variable.copy_(torch.tensor([[-9.0, 0.0, 0.8]]))
    h = min(max(1 / (1 + math.exp(-0.8)) * 1.2 - 0.1, 0), 1)
    for beta in (20.0, 2.0):
        expected = 0 + 1 + 1 - abs(2 * h - 1) ** beta
        assert float(rounding.indecision(beta).detach()) == pytest.approx(expected, rel=1e-5)
    assert annealed(19, 100, 0.2) is None
    betas = [annealed(step, 100, 0.2) for step in range(20, 100)]
    assert betas == sorted(betas, reverse=True)  # type: ignore[type-var]


def test_dropped_activations_are_those_of_the_float_network() -> None:
    """A share stays as it is but for the float clamp, the others are rounded; none dropped is the usual rounding."""
    scaled, generator = torch.linspace(-4, 20, 4000), torch.Generator().manual_seed(0)
    made = DroppedRounding(0.3, generator)(scaled, 0, 15, None, 0.5)
    rounded = scaled.round().clamp(0, 15)
    kept = made != rounded
    assert torch.equal(made[kept], scaled[kept])
    assert 0.25 < float(kept.float().mean()) < 0.35
    assert torch.equal(DroppedRounding(0.0, generator)(scaled, 0, 15, None, 0.5), rounded)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("bounds", [None, Bounds(0.0, None), Bounds(0.0, 6.0)])
def test_dropping_is_a_choice_of_two_roundings(share: float, bounds: Bounds | None) -> None:
    """Values and gradients are those of the literal form, by `where`, with the same choice."""
    first, last = (None, None) if bounds is None else (bounds.minimum, bounds.maximum)
    scaled = (torch.randn(3, 5, 7, 7, generator=torch.Generator().manual_seed(1)) * 8).requires_grad_()
    wanted = torch.randn(scaled.shape, generator=torch.Generator().manual_seed(2))
    made = DroppedRounding(share, torch.Generator().manual_seed(3))(scaled, 0, 7, bounds, 1.0)
    (gradient,) = torch.autograd.grad(made, scaled, wanted)
    chosen = DroppedRounding(share, torch.Generator().manual_seed(3)).chosen(scaled).bool()
    real = scaled if bounds is None else scaled.clamp(first, last)
    literal = torch.where(chosen, real, clamp_round(scaled, 0, 7))
    assert torch.equal(made, literal)
    assert torch.equal(gradient, torch.autograd.grad(literal, scaled, wanted)[0])
    assert abs(float(chosen.float().mean()) - share) < 0.06


@pytest.mark.parametrize("precision", ["W2A4", "W4A4"])
def test_reconstructed_logits_are_closer_to_floats(precision: str) -> None:
    """On images that it did not see; and what is evaluated is still what is lowered."""
    model = small_quantized(precision)
    unseen = digits().test.read(range(200))[0]
    before = distance(model, unseen)
    told, looks = list[tuple[int, int]](), dict[str, float]()

    def heard(done: int, total: int, /, **figures: float) -> None:
        told.append((done, total))
        looks.update(figures)

    reconstruct(model, digits().calibration(128)[0], QUICK, progress=heard)
    assert distance(model, unseen) < 0.8 * before
    again = [(step, 251) for step in range(247, 252)] if looks["taken_back"] else []  # the layers on all images
    assert told == [(step, 246) for step in range(1, 247)] + again  # five layers, four blocks, and the last look
    integers = certified(model)
    with torch.no_grad():
        assert torch.equal(model.integers(unseen)["logits"].values.to(torch.int32), run(integers, unseen))


@pytest.mark.parametrize("ranges", list(Ranges))
def test_formats_and_untouched_ranges_stay(ranges: Ranges) -> None:
    """Only learned scales move; the integers of weights are those decided for, whatever the ranges; no hook is left behind."""
    model = small_quantized("W4A4", ranges=ranges)
    formats = dict(model.plan.formats)
    scales = {name: value.clone() for name, value in model.state_dict().items() if name.endswith("scale")}
    reconstruct(model, digits().calibration(32)[0], ReconstructionSettings(steps=3, batch_size=8))
    assert dict(model.plan.formats) == formats
    assert all(quantizer.rounding is None for quantizer in model.weights.values())
    for name, value in model.state_dict().items():
        if name.endswith("scale") and ranges is not Ranges.LEARNED:
            assert torch.equal(value, scales[name])


def test_a_block_that_descends_the_wrong_way_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps that are far too long leave what was there before them, to the bit: weights, offsets and scales."""
    monkeypatch.setattr(importlib.import_module("bitwright.reconstruction.reconstruct"), "UNSEEN", 1000)
    images = digits().calibration(64)[0]
    alone = compensate_rounding(small_quantized("W4A4"), images).state_dict()
    wild = replace(BLOCKS, steps=3, learning_rate=30.0, scale_rate=5.0)
    model = reconstruct(small_quantized("W4A4"), images, wild)
    assert all(torch.equal(value, alone[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("steps", [2, 60])
def test_steps_that_images_unseen_do_not_like_are_taken_back(steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """To the bit, where the logits on the last eighth of the images, in all their forms, are further; else they stay."""
    monkeypatch.setattr(importlib.import_module("bitwright.reconstruction.reconstruct"), "FURTHER", math.inf)
    images, told = digits().calibration(64)[0], list[dict[str, float]]()
    rate = 0.3 if steps == 60 else 30.0
    settings = replace(BLOCKS, compensate=False, steps=steps, learning_rate=rate)
    alone, model = small_quantized("W2A4"), small_quantized("W2A4")
    reconstruct(model, images, settings, progress=lambda *_, **figures: told.append(figures))
    assert not any("unseen_error" in figures for figures in told[:-1])
    ratio = told[-1]["unseen_error"]
    same = all(torch.equal(value, alone.state_dict()[name]) for name, value in model.state_dict().items())
    assert same == told[-1]["taken_back"] == (steps == 2)
    assert (ratio > 1) == same
    if not same:
        logarithms = [
            math.log(divergence(model, image[None]) / divergence(alone, image[None])) for image in in_forms(images[56:])
        ]
        assert ratio == pytest.approx(math.exp(sum(logarithms) / 64), rel=1e-4)


def test_equal_seeds_make_equal_networks() -> None:
    """And other seeds others."""

    def weights(seed: int) -> Tensor:
        settings = ReconstructionSettings(compensate=False, steps=20, batch_size=8, seed=seed)
        model = reconstruct(small_quantized("W2A4"), digits().calibration(32)[0], settings)
        return torch.cat([value.flatten() for value in model.state_dict().values()])

    first = weights(0)
    assert torch.equal(first, weights(0))
    assert not torch.equal(first, weights(1))


class Stop(Exception):
    """What ends a reconstruction in the middle."""


@pytest.mark.parametrize("first", [0, 5])
def test_it_goes_on_to_the_bit(tmp_path: Path, first: int) -> None:
    """Interrupted in its third block, it ends in another model of the same network as it would have ended unbroken.

    Without compensation, which comes before all blocks, and with that of five layers.
    """
    settings = replace(BLOCKS, compensate=first > 0, steps=20)
    images = digits().calibration(64)[0]
    whole = reconstruct(small_quantized("W2A4"), images, settings).state_dict()
    begun = small_quantized("W2A4").state_dict()
    assert sum(not torch.equal(value, whole[name]) for name, value in begun.items()) >= 10
    state = Checkpointing(tmp_path / "state", minutes=0.0)

    def stop(done: int, total: int, /, **figures: float) -> None:
        if done == first + 50:
            raise Stop

    with pytest.raises(Stop):
        reconstruct(small_quantized("W2A4"), images, settings, checkpoint=state, progress=stop)
    with pytest.raises(FileFormatError, match="state of an interrupted run"):
        reconstruct(small_quantized("W2A4"), images, settings, checkpoint=state)
    state, told = replace(state, resume=True), list[int]()
    with pytest.raises(FileFormatError, match=r"belongs to another reconstruction: seed was 0, is 1\."):
        reconstruct(small_quantized("W2A4"), images, replace(settings, seed=1), checkpoint=state)
    model = small_quantized("W2A4")
    reconstruct(model, images, settings, checkpoint=state, progress=lambda done, total, **_: told.append(done))
    assert told[0] - first in (
        21,
        41,
    )  # whether the second block was kept, too, depends on how long it took to write the first
    assert told == list(range(told[0], first + 82))
    assert all(torch.equal(value, whole[name]) for name, value in model.state_dict().items())


def test_scales_that_are_decided_stay() -> None:
    """A later block does not move the scale of a tensor that the blocks before it have made: their integers stay true."""
    model = tiny_quantized(tiny_graph())
    graph = model.plan.graph
    of = model.plan.quantizer_of
    decided = {of[graph.nodes[0].name]}
    found = blocks(graph)
    shared = {of[block.source] for block in found} & {of[node.name] for block in found for node in block.nodes[:-1]}
    assert shared, "no block goes on with a scale that was there before it"
    for block in found:
        descent = BlockDescent(model, block, model.parameters_by_name(), decided, QUICK, torch.Generator())
        learned = {id(value) for group in descent._groups() for value in group["params"]}
        assert learned.isdisjoint(id(model.activation_quantizer(name).scale) for name in decided)
        decided |= {of[node.name] for node in block.nodes}


def test_compensation_can_be_all() -> None:
    """No steps leave what compensation alone makes; it comes first otherwise, but not where weights are trained already."""
    images = digits().calibration(64)[0]
    alone = compensate_rounding(small_quantized("W2A4"), images).state_dict()
    model = reconstruct(small_quantized("W2A4"), images, ReconstructionSettings(steps=0))
    assert all(torch.equal(value, alone[name]) for name, value in model.state_dict().items())
    with pytest.raises(TrainingError, match="has no longer the weights of the float network"):
        reconstruct(model, images, ReconstructionSettings(steps=0))
    few = replace(BLOCKS, steps=2, batch_size=8)
    told = list[int]()
    reconstruct(model, images, few, progress=lambda done, total, **_: told.append(total))
    assert told == [9] * 9
    without = reconstruct(small_quantized("W2A4"), images, replace(few, compensate=False)).state_dict()
    first = reconstruct(small_quantized("W2A4"), images, few).state_dict()
    assert not all(torch.equal(value, first[name]) for name, value in without.items())


def test_where_no_steps_are_left_all_images_compensate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once they are taken back, nothing is to be judged any more: the network is that of no steps, also after an interruption."""
    monkeypatch.setattr(importlib.import_module("bitwright.reconstruction.reconstruct"), "FURTHER", math.inf)
    images = digits().calibration(64)[0]
    alone = compensate_rounding(small_quantized("W4A8"), images).state_dict()
    wild = replace(BLOCKS, steps=2, learning_rate=30.0, scale_rate=5.0)
    state, told = Checkpointing(tmp_path / "state", minutes=0.0), list[tuple[int, int]]()

    def stop(done: int, total: int, /, **figures: float) -> None:
        told.append((done, total))
        if told[-2:] == [(15, 19), (16, 19)]:
            raise Stop

    with pytest.raises(Stop):
        reconstruct(small_quantized("W4A8"), images, wild, checkpoint=state, progress=stop)
    assert told == [*((done, 14) for done in range(1, 15)), (15, 19), (16, 19)]  # five layers, four blocks, one look
    model = small_quantized("W4A8")
    reconstruct(
        model,
        images,
        wild,
        checkpoint=replace(state, resume=True),
        progress=lambda *at, **_: told.append((at[0], at[1])),
    )
    assert told[-1] == (19, 19)
    assert all(torch.equal(value, alone[name]) for name, value in model.state_dict().items())


def test_bad_settings_and_images_are_refused() -> None:
    """By what was expected, before any work."""
    with pytest.raises(TrainingError, match="steps or compensation, got 32, 0 and False"):
        ReconstructionSettings(steps=0, compensate=False)
    with pytest.raises(TrainingError, match=r"learning_rate .* got nan"):
        ReconstructionSettings(learning_rate=math.nan)
    with pytest.raises(TrainingError, match="drop up to 1"):
        ReconstructionSettings(drop=1.5)
    unready = quantize(small_graph(), small_quantized().plan.scheme)
    with pytest.raises(TrainingError, match="not calibrated"):
        reconstruct(unready, digits().calibration(8)[0], QUICK)
    with pytest.raises(DataError):
        reconstruct(small_quantized(), torch.zeros(0, 1, 28, 28), QUICK)
