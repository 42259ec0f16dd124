# SPDX-License-Identifier: MIT
"""Budgets of latency: sums of layers are those of whole networks, doubts are said, and the file is held against the budget."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allocation.strategies import every_choice
from auto.test_quantize import data, graph
from bitwright.allocation import LatencyTable, graph_problem, layer_shapes
from bitwright.auto import AutoSettings, auto_quantize
from bitwright.auto import latency as latency_module
from bitwright.auto.latency import judge_latency, layer_latencies, require_latencies
from bitwright.benchmark.layers import LayerLatencies
from bitwright.benchmark.timing import Spread
from bitwright.errors import BitwrightWarning, ExportError
from bitwright.export import form_of
from bitwright.scheme import Budget, Precision
from bitwright.sensitivity import SensitivityTable

PRECISIONS = (Precision(4, 4), Precision(8, 8))


def timed(share: float = 1.0, spread: float = 0.0) -> LayerLatencies:
    """Layers that take such a part of the whole, which varies so much."""
    shapes = list(layer_shapes(graph()).values())
    by_shape = {
        shape: {precision: float(precision.weight_bits * (place + 1)) for precision in PRECISIONS}
        for place, shape in enumerate(dict.fromkeys(shapes))
    }
    table = LatencyTable("cpu", "engine 1", 1, by_shape, note="made up")
    found = LayerLatencies(table, {shape: shapes.count(shape) for shape in by_shape}, {}, 0.0)
    whole = {precision: found.sum_ms(precision) / share for precision in PRECISIONS}
    return replace(
        found, whole_ms={key: Spread(ms, ms * (1 - spread / 2), ms * (1 + spread / 2)) for key, ms in whole.items()}
    )


@pytest.mark.parametrize("share", [0.5, 1.0, 2.5])
def test_layers_sum_up_to_the_whole(share: float) -> None:
    """Whatever part of the network's time the layers took alone."""
    found = timed(share)
    scaled = replace(found, table=found.scaled())
    for precision in PRECISIONS:
        assert scaled.sum_ms(precision) == pytest.approx(found.whole_ms[precision].median)


@pytest.mark.parametrize(
    ("share", "spread", "words"),
    [
        (1.0, 0.1, []),
        (0.8, 0.25, []),
        (1.3, 0.0, ["130 % of the whole network's time"]),
        (0.5, 0.0, ["50 % of the whole network's time at W4A4 (additions"]),
        (0.5, 0.5, ["50 % of the whole", "varies by 50 % between rounds: other work runs"]),
    ],
)
def test_doubts(share: float, spread: float, words: list[str]) -> None:
    """A sum that is another part of the whole than 80 to 120 %, and a loaded machine, are said with their cause."""
    doubts = list(timed(share, spread).doubts())
    assert len(doubts) == len(words)
    assert all(part in doubt for part, doubt in zip(words, doubts, strict=True))


def test_a_search_that_goes_on_reads_the_same_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is measured at all choices and 8 bits, scaled and kept; and not measured again."""
    asked: list[list[Precision]] = []

    def measured(_: object, precisions: Iterable[Precision], **__: Any) -> LayerLatencies:
        asked.append(list(precisions))
        return timed(0.5)

    monkeypatch.setattr(latency_module, "measure_layers", measured)
    path = tmp_path / "net.latency.json"
    with pytest.warns(BitwrightWarning, match="50 % of the whole network's time"):
        first = layer_latencies(graph(), PRECISIONS[:1], path, resume=True)
    assert layer_latencies(graph(), PRECISIONS[:1], path, resume=True) == first == LatencyTable.load(path)
    assert asked == [list(PRECISIONS)]
    with pytest.warns(BitwrightWarning):
        layer_latencies(graph(), PRECISIONS[:1], path, resume=False)
    assert len(asked) == 2


def test_the_least_latency_within_the_drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The frontier over milliseconds is that of every choice there is; the next faster point was measured, and loses too much."""
    monkeypatch.setattr(latency_module, "measure_layers", lambda *_, **__: timed())
    asked = AutoSettings(
        max_drop=0.01, cost="latency", choices=PRECISIONS, points=5, calibration_images=64, sensitivity_images=32
    )
    found = auto_quantize(graph(), data(), tmp_path / "net.onnx", asked)
    table = SensitivityTable.load(tmp_path / "net.sensitivities.json")
    latency = LatencyTable.load(tmp_path / "net.latency.json")
    problem = graph_problem(graph(), table, choices=PRECISIONS, latency=latency)
    milliseconds = problem.usages["latency"].of
    choices = sorted(every_choice(problem), key=problem.loss)
    low, high = (pick(map(milliseconds, choices)) for pick in (min, max))
    limits = [low + (high - low) * step // 4 for step in range(5)]
    expected = [next(choice for choice in choices if milliseconds(choice) <= limit) for limit in limits]
    assert found.frontier is not None
    assert [point.scheme.layers for point in found.frontier.points] == list(
        map(dict, dict.fromkeys(map(_hashed, expected)))
    )
    place = [point.scheme for point in found.frontier.points].index(found.scheme)
    assert found.measured.drop <= 0.01
    assert (place == 0) == (found.cheaper is None)
    assert found.cheaper is None or found.cheaper.drop > 0.01


def _hashed(choice: dict[str, Precision]) -> tuple[tuple[str, Precision], ...]:
    return tuple(choice.items())


def test_the_file_is_held_against_the_budget() -> None:
    """Longer than was asked for is a warning with both figures."""
    settings = AutoSettings(max_drop=None, budgets=(Budget("size", 1.0), Budget("latency", 2.0)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        judge_latency(settings, 2.0)
    with pytest.warns(BitwrightWarning, match=r"takes 2\.500 ms, more than the 2 ms"):
        judge_latency(settings, 2.5)


def test_only_files_whose_layers_can_be_timed() -> None:
    """Others are refused at once, by name."""
    settings = AutoSettings(budgets=(Budget("latency", 2.0),))
    require_latencies(settings, form_of("onnx"))
    require_latencies(AutoSettings(), form_of("openvino"))
    with pytest.raises(
        ExportError, match=r"that of ONNX files.*got a file for openvino: write to a file that ends in \.onnx"
    ):
        require_latencies(settings, form_of("openvino"))
