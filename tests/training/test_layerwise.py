# SPDX-License-Identifier: MIT
"""Bits fall from layer to layer in the order of sensitivity, and an interrupted training ends as an unbroken one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright.allocation import layerwise_schemes
from bitwright.errors import FileFormatError, SchemeError
from bitwright.graph import Graph
from bitwright.graph.state_file import StateFile
from bitwright.scheme import Precision, Scheme
from bitwright.sensitivity import LayerSensitivity, SensitivityTable
from bitwright.training import (
    Checkpointing,
    QuantizedModel,
    TrainResult,
    TrainSettings,
    fine_tune_layerwise,
)
from bitwright.training.layerwise import forget_layerwise
from training.small import digits, small_graph

BITS = st.integers(2, 8)


def table_of(costs: dict[str, float]) -> SensitivityTable:
    """Each layer costs so much at 2 bits, and less at more."""
    entries = [
        LayerSensitivity(layer, 1, 0.0, 0.0, 1, True, {}, increase={bits: (cost / bits, 0.0) for bits in range(2, 9)})
        for layer, cost in costs.items()
    ]
    return SensitivityTable(tuple(entries), "loss_perturbation", "net", "data", 1, 0)


@given(
    st.lists(st.tuples(BITS, BITS, st.integers(0, 3)), min_size=1, max_size=6),
    st.lists(st.integers(2, 8), min_size=1, max_size=3, unique=True),
    st.integers(1, 4),
)
def test_schemes_fall_to_the_target(layers: list[tuple[int, int, int]], rungs: list[int], per_stage: int) -> None:
    """Bits only fall, never below the target, a few layers at a time and the costliest first; the last scheme is the target."""
    target = Scheme("goal", {f"l{index}": Precision(w, a) for index, (w, a, _) in enumerate(layers)}, residual_bits=16)
    costs = {f"l{index}": float(cost) for index, (_, _, cost) in enumerate(layers)}
    steps = [Precision(bits, bits) for bits in sorted(rungs, reverse=True)]
    schemes = layerwise_schemes(target, table_of(costs), rungs=steps, per_stage=per_stage)
    assert schemes[-1] == target
    assert len({scheme.name for scheme in schemes}) == len(schemes)
    former = {
        layer: Precision(max(own.weight_bits, steps[0].weight_bits), max(own.act_bits, steps[0].act_bits))
        for layer, own in target.layers.items()
    }
    for scheme in schemes:
        assert (scheme.residual_bits, scheme.deploy) == (16, "any")
        fallen = [layer for layer in target.layers if scheme.layers[layer] != former[layer]]
        assert len(fallen) <= per_stage
        for layer, own in target.layers.items():
            now, before = scheme.layers[layer], former[layer]
            assert own.weight_bits <= now.weight_bits <= before.weight_bits
            assert own.act_bits <= now.act_bits <= before.act_bits
        former = dict(scheme.layers)


def test_the_most_sensitive_layer_falls_first() -> None:
    """In the order of cost on each rung, with ties in the order of execution."""
    target = Scheme("goal", {name: Precision(2, 4) for name in "abcd"} | {"e": Precision(8, 8)})
    table = table_of({"a": 1.0, "b": 3.0, "c": 3.0, "d": 5.0, "e": 9.0})

    def order(*rungs: Precision) -> str:
        schemes = layerwise_schemes(target, table, rungs=rungs)
        former = {name: max(own, rungs[0]) for name, own in target.layers.items()}
        fallen = ""
        for scheme in schemes:
            fallen += "".join(name for name in target.layers if scheme.layers[name] != former[name])
            former = dict(scheme.layers)
        return fallen

    assert order(Precision(8, 8)) == "dbca"
    assert order(Precision(8, 8), Precision(4, 4)) == "dbcadbca"
    assert len(layerwise_schemes(target, table, per_stage=3)) == 2
    assert layerwise_schemes(target, table, rungs=[Precision(2, 2)]) == (target,)


@pytest.mark.parametrize(
    ("rungs", "per_stage", "message"),
    [
        ([Precision(4, 4), Precision(8, 8)], 1, "fewer and fewer bits, got W8A8 after W4A4"),
        ([Precision(4, 4), Precision(4, 4)], 1, "fewer and fewer bits"),
        ([Precision(8, 8)], 0, "at least 1 layer"),
    ],
)
def test_stages_that_make_no_way_are_refused(rungs: list[Precision], per_stage: int, message: str) -> None:
    """Rungs that do not fall, and stages without a layer."""
    target = Scheme("goal", {"a": Precision(2, 2)})
    with pytest.raises(SchemeError, match=message):
        layerwise_schemes(target, table_of({"a": 1.0}), rungs=rungs, per_stage=per_stage)


@cache
def network() -> Graph:
    """Captured once."""
    return small_graph()


SETTINGS = TrainSettings(epochs=1, learning_rate=0.01, batch_size=16, data_fraction=0.008)
"""Two steps in a stage."""


def run(
    checkpoint: Checkpointing | None = None,
    count: Callable[[], None] = lambda: None,
    settings: TrainSettings = SETTINGS,
) -> tuple[QuantizedModel, TrainResult]:
    """Three stages of the small network; `count` is called at each step."""
    graph = network()
    costs = {layer: float(len(layer)) for layer in graph.layers}
    schemes = layerwise_schemes(Scheme.uniform(graph.layers, Precision(2, 4)), table_of(costs))
    assert len(schemes) == 3
    return fine_tune_layerwise(
        graph, schemes, digits(), settings, calibration_images=64, checkpoint=checkpoint,
        progress=lambda done, total, /, **figures: count(),
    )  # fmt: skip


class _Stopped(Exception):
    """In place of a kill."""


def test_interrupted_anywhere_it_ends_as_an_unbroken_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped at every step, every write and every removal in turn: the next run goes on, with the very weights and losses."""
    expected, told = run()
    events, limit = 0, 0

    def event() -> None:
        nonlocal events
        events += 1
        if events == limit:
            raise _Stopped

    write, unlink = StateFile.write, Path.unlink

    def writing(*arguments: object, **options: object) -> None:
        write(*arguments, **options)  # type: ignore[arg-type]
        event()

    def removing(path: Path, missing_ok: bool = False) -> None:
        event()
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(StateFile, "write", writing)
    monkeypatch.setattr(Path, "unlink", removing)
    place = Checkpointing(tmp_path / "state", minutes=0)
    limits, ended = iter(range(1, 100)), False
    # Each run is stopped at a later event than it began with, so that all kinds of events stop one.
    while not ended:
        events, limit = 0, next(limits) % 7 + 1
        try:
            model, result = run(Checkpointing(place.path, minutes=0, resume=place.path.exists()), event)
            ended = True
        except _Stopped:
            continue
    monkeypatch.undo()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in expected.state_dict().items())
    assert (result.losses, result.steps) == (told.losses, told.steps)
    assert len(result.losses) == 3
    with pytest.raises(
        FileFormatError, match=r"belongs to another layerwise training: learning_rate was 0\.01, is 0\.1"
    ):
        run(
            Checkpointing(place.path, resume=True),
            settings=TrainSettings(epochs=1, learning_rate=0.1, batch_size=16, data_fraction=0.008),
        )
    assert {path.name for path in tmp_path.iterdir()} == {"state", "state.stage3"}
    forget_layerwise(place.path, 3)
    assert list(tmp_path.iterdir()) == []
