# SPDX-License-Identifier: MIT
"""Random networks give the integers of the reference executor in every engine, at every batch size and number of threads."""

from __future__ import annotations

from collections import Counter
from functools import cache

import numpy as np
import pytest

from bitwright.benchmark import ENGINES
from bitwright.errors import BitwrightError
from bitwright.quantizer import TensorFormat
from export.unoptimised import unoptimised
from phases import CAPTURED
from random_networks import DISTINCT_LOGITS, Part, RandomModel, Survey, from_log, logged, random_model, survey

NETWORKS = 60
WIDE = 20
MANY = 1000


@cache
def models() -> dict[int, RandomModel]:
    """The models of the default run that can be lowered, by seed."""
    found = {}
    for seed in range(NETWORKS):
        try:
            found[seed] = made(seed)
        except BitwrightError:
            continue
    return found


def test_a_survey_is_kept_in_its_log() -> None:
    """Refusals and faults as well as what was equal, so that a survey that goes on counts them once."""
    parts = Part("onnxruntime", None, None, 0, 4), Part("openvino", "AVX2", "vnni", 4, 3)
    found = Survey(1, {2: {"level all, 1 threads, batch 2": 3}}, Counter({"no model: a clamp": 2})), Survey(3)
    assert from_log("".join(map(logged, parts, found))) == dict(zip(parts, found, strict=True))
    total = found[0] + found[1]
    assert (total.equal, total.wrong, total.refused) == (4, found[0].wrong, found[0].refused)


def test_a_seed_decides_all() -> None:
    """The same seed gives the same model and images; another gives others."""
    first, again, other = random_model(0), random_model(0), random_model(1)
    assert np.array_equal(first.images, again.images)
    assert np.array_equal(first.logits, again.logits)
    assert not np.array_equal(first.logits, other.logits)


def test_networks_are_of_every_kind() -> None:
    """All kinds of nodes and settings occur, and no model has just a few distinct logits."""
    made = models().values()
    assert len(made) >= 0.9 * NETWORKS
    kinds = {type(node) for given in made for node in given.graph}
    assert set(CAPTURED) == kinds
    assert {
        bits
        for given in made
        for layer in given.model.scheme.layers.values()
        for bits in (layer.weight_bits, layer.act_bits)
    } == set(range(2, 9))
    assert {given.model.scheme.residual_bits for given in made} == {8, 16}
    formats = {params.format for given in made for params in given.model.formats.values()}
    windows = {window for window in formats if window != TensorFormat.of(window.bit_width, negative=window.negative)}
    assert {window.bit_width for window in windows} == set(range(2, 9))
    assert any(window.quant_min < -128 for window in windows)
    assert {given.pixels is None for given in made} == {True, False}
    layers = [layer for given in made for layer in given.model.layers().values()]
    convolutions = [layer for layer in layers if hasattr(layer, "groups")]
    assert any(layer.shape[1:] == (1, 1) for layer in convolutions)
    assert any(1 < layer.groups < layer.shape[0] for layer in convolutions)
    assert any(1 < layer.groups == layer.shape[0] // 2 and layer.weight.shape[1] == 1 for layer in convolutions)
    assert any((layer.weight.reshape(len(layer.weight), -1) == 0).all(1).any() for layer in layers)
    for given in made:
        assert len(np.unique(given.logits)) > DISTINCT_LOGITS


@cache
def made(seed: int) -> RandomModel:
    """A network that several engines are given."""
    return random_model(seed)


@cache
def made_wide(seed: int) -> RandomModel:
    """A wide network that several engines are given."""
    return random_model(seed, wide=True)


def require(engine: str) -> None:
    """Skip what needs an engine that is not installed."""
    if not ENGINES[engine].installed:
        pytest.skip(f"the extra '{engine}' is not installed")


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_give_the_integers_of_the_reference(engine: str) -> None:
    """At batch 1, 2 and 3, with one thread and two, at every level; at most three of ten are refused."""
    require(engine)
    found = survey(engine, range(NETWORKS), make=made, export=unoptimised if engine == "tvm" else None)
    assert found.wrong == {}
    assert found.of_exporter <= 0.3 * NETWORKS


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "litert", "tvm"])
def test_wide_networks(engine: str) -> None:
    """Layers of hundreds of channels, for which engines have other kernels; TVM's as LLVM optimises them."""
    require(engine)
    found = survey(engine, range(WIDE), make=made_wide)
    assert found.wrong == {}
    assert found.of_exporter <= 0.3 * WIDE


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino", "litert", "qonnx"])
def test_pools_that_end_behind_the_image(engine: str) -> None:
    """PyTorch drops the last window of a pool that rounds up where it begins behind the image; not every engine does."""
    require(engine)
    assert survey(engine, [541, 544], make=made).wrong == {}


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("engine", ENGINES)
def test_many_networks(engine: str) -> None:
    """A thousand."""
    require(engine)
    found = survey(engine, range(MANY))
    assert found.wrong == {}
    assert found.of_exporter <= 0.3 * MANY


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("instructions", ["SSE41", "AVX2", "AVX512_CORE", "AVX512_CORE_VNNI"])
def test_many_networks_at_every_level_of_instructions(instructions: str) -> None:
    """OpenVINO's kernels, which oneDNN chooses by what a CPU has; levels beyond this CPU's are its own."""
    require("openvino")
    assert survey("openvino", range(MANY), {"ONEDNN_MAX_CPU_ISA": instructions}).wrong == {}
