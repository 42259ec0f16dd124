# SPDX-License-Identifier: MIT
"""Random networks that return several of their tensors, some as views: each engine gives the integers of every output."""

from __future__ import annotations

import random
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor

from bitwright.benchmark import ENGINES, compare
from bitwright.errors import ExportError, LoweringError
from bitwright.graph import Graph
from bitwright.graph.nodes import Node, Rearrange
from bitwright.integer import IntegerModel, lower, prepare, run
from bitwright.returned import by_name
from bitwright.scheme import Precision, Scheme
from bitwright.training import calibrate, quantize
from export.unoptimised import unoptimised
from random_networks import random_graph

FEW, MANY = 2, 40


def viewed(draw: random.Random, number: int, source: Node) -> Rearrange:
    """A tensor with its axes in another order, or one of them cut, in any number of axes."""
    axes = list(range(len(source.shape)))
    draw.shuffle(axes)
    sizes = [source.shape[axis] for axis in axes]
    cut = draw.randrange(len(sizes))
    part = draw.choice([size for size in range(1, sizes[cut] + 1) if sizes[cut] % size == 0])
    shape = (*sizes[:cut], part, sizes[cut] // part, *sizes[cut + 1 :])
    return Rearrange(name=f"view{number}", inputs=(source.name,), shape=shape, parts=source.shape, order=tuple(axes))


@cache
def model_of(seed: int) -> tuple[IntegerModel, Tensor]:
    """A network of a seed that returns up to three more tensors, at random widths, and three images."""
    draw = random.Random(f"{seed}.outputs")
    torch.manual_seed(seed)
    graph = random_graph(draw, f"random network {seed}")
    within = [node for node in graph.nodes[1:] if node.name not in graph.returned]
    nodes, outputs = list(graph.nodes), dict(graph.outputs)
    for number, node in enumerate(draw.sample(within, min(len(within), draw.randint(1, 3)))):
        outputs[f"more{number}"] = node.name
        if draw.random() < 0.6:
            nodes.append(viewed(draw, number, node))
            outputs[f"more{number}"] = nodes[-1].name
    graph = Graph(graph.model, tuple(nodes), outputs, graph.parameters)
    layers = {name: Precision(draw.randint(2, 8), draw.randint(2, 8)) for name in graph.layers}
    quantized = quantize(graph, Scheme("random", layers, draw.choice([8, 16])))
    images = torch.randn(11, *graph.input_shape)
    return lower(calibrate(quantized, [images[3:]])), images[:3]


def made(seeds: Iterable[int]) -> dict[int, tuple[IntegerModel, Tensor]]:
    """Of those that can be lowered: an output of integers of unlike worth cannot."""
    found = {}
    for seed in seeds:
        try:
            found[seed] = model_of(seed)
        except LoweringError:
            continue
    return found


def assert_equal(engine: str, seeds: range, folder: Path) -> None:
    """At batch 1, 2 and 3; most are not refused."""
    if not ENGINES[engine].installed:
        pytest.skip(f"the extra '{engine}' is not installed")
    export = unoptimised if engine == "tvm" and len(seeds) <= FEW else ENGINES[engine].form.export
    models, written = made(seeds), 0
    for seed, (model, images) in models.items():
        path = folder / f"{seed}{ENGINES[engine].form.suffix}"
        try:
            export(model, path)
        except ExportError:
            continue
        written += 1
        results = compare(model, {engine: path}, [images], {engine: ENGINES[engine].levels[-1:]}, smaller=(1, 2))
        assert all(result.exact for result in results), (seed, list(map(str, results)))
    assert len(models) >= 0.8 * len(seeds)
    assert written >= 0.6 * len(seeds)


def test_executors_agree_on_every_output() -> None:
    """And outputs are of any rank, sums of layers and quantized tensors among them."""
    models = made(range(14)).values()
    ranks = {len(shape) for model, _ in models for shape in model.output_shapes.values()}
    assert ranks >= {1, 2, 3, 4}
    quantized = {output.tensor in model.formats for model, _ in models for output in model.outputs.values()}
    assert quantized == {True, False}
    for model, images in models:
        expected, ready = by_name(run(model, images)), prepare(model)
        for count in (1, 3):
            for name, values in by_name(ready.run(images[:count])).items():
                assert torch.equal(values, expected[name][:count])


@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree_on_every_output(engine: str, tmp_path: Path) -> None:
    """A few networks."""
    assert_equal(engine, range(FEW), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("engine", ENGINES)
def test_engines_agree_on_every_output_of_many(engine: str, tmp_path: Path) -> None:
    """Forty."""
    assert_equal(engine, range(MANY), tmp_path)
