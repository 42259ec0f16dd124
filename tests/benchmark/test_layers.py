# SPDX-License-Identifier: MIT
"""A latency table measured here serves the search; what is timed are the very nodes of the exported network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from bitwright.allocation import LatencyTable, allocate, allocation_problem, layer_shapes
from bitwright.benchmark import measure_layers
from bitwright.benchmark.layers import WHOLE, _cut, _lowered
from bitwright.errors import ExportError, UnknownNameError
from bitwright.graph import layer_costs
from bitwright.integer.execution.reference import run
from bitwright.scheme import Budget, Precision
from export.models import RESNET20, graph_of

CHOICES = (Precision(4, 4), Precision(8, 8))


def test_table_of_every_shape(tmp_path: Path) -> None:
    """All shapes at all precisions; the counts add up to the layers; the table that `allocate` reads comes back from its file."""
    graph, _ = graph_of(RESNET20, 32)
    steps: list[tuple[int, int]] = []
    found = measure_layers(graph, CHOICES, batch=2, rounds=3, progress=lambda done, total: steps.append((done, total)))
    assert set(found.table.by_shape) == set(layer_shapes(graph).values())
    assert sum(found.counts.values()) == len(graph.layers)
    assert all(set(times) == set(CHOICES) for times in found.table.by_shape.values())
    for precision in CHOICES:
        assert found.sum_ms(precision) == pytest.approx(
            sum(found.table.by_shape[shape][precision] for shape in layer_shapes(graph).values())
        )
        assert found.sum_ms(precision) > 0
        assert found.explained(precision) == found.sum_ms(precision) / found.whole_ms[precision].median
    assert steps[-1][0] == steps[-1][1]
    found.table.save(tmp_path / "table.json")
    table = LatencyTable.load(tmp_path / "table.json")
    assert table == found.table
    latencies = table.for_graph(graph, dict.fromkeys(graph.layers, CHOICES))
    losses = {layer: {CHOICES[0]: 1.0, CHOICES[1]: 0.0} for layer in graph.layers}
    problem = allocation_problem(losses, layer_costs(graph), choices=CHOICES, latency_ms=latencies)
    whole = sum(max(times.values()) for times in latencies.values())
    chosen = allocate(problem, [Budget.parse(f"latency={whole + 1}ms")])
    assert set(chosen.scheme.layers.values()) == {CHOICES[1]}


def test_cut_layers_are_the_networks_own(tmp_path: Path) -> None:
    """A layer's file, given what the layer reads in the network, returns the integers that it makes there."""
    graph, _ = graph_of(RESNET20, 32)
    model = _lowered(graph, Precision(4, 4))
    layers = [layer for layer in graph.layers if layer in model.formats]
    files = _cut(model, layers, tmp_path, batch=3)
    assert set(files) == {WHOLE, *layers}
    seen: dict[str, torch.Tensor] = {}
    images = torch.randn(3, *model.input_shape, generator=torch.Generator().manual_seed(3))
    run(model, images, observe=lambda name, values: seen.__setitem__(name, values))
    for layer in layers:
        path, _ = files[layer]
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        source = session.get_inputs()[0].name

        def stored(name: str) -> np.ndarray:
            return (seen[name].numpy().astype(np.int64) - model.formats[name].quant_min).astype(np.uint8)

        (got,) = session.run(None, {source: stored(source)})
        assert np.array_equal(got, stored(layer)), layer


def test_refusals() -> None:
    """Precisions must be given, and layers can only be cut out of ONNX files."""
    graph, _ = graph_of(RESNET20, 32)
    with pytest.raises(ExportError, match="at least one precision"):
        measure_layers(graph, [])
    with pytest.raises(ExportError, match="which qonnx does not read; choose one of: onnxruntime"):
        measure_layers(graph, CHOICES, engine="qonnx")
    with pytest.raises(UnknownNameError, match="unknown engine"):
        measure_layers(graph, CHOICES, engine="onnx")
