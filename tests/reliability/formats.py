# SPDX-License-Identifier: MIT
"""Every format that is read: a file of it, how it is loaded, and what a first use does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from bitwright.allocation import Allocation, LatencyTable, ParetoFrontier, allocate, graph_problem, pareto_frontier
from bitwright.allocation.shapes import layer_shapes
from bitwright.demo.folder import RECORD, open_folder
from bitwright.errors import BitwrightError, DataError, FileFormatError, OutputError, SchemeError, TrainingError
from bitwright.graph import FloatModel, Graph
from bitwright.integer import run
from bitwright.integer.reader import load_integer
from bitwright.progress import Progress, silent
from bitwright.reading import read_text
from bitwright.scheme import Budget, Precision, Scheme
from bitwright.sensitivity import LayerSensitivity, SensitivitySettings, SensitivityTable, measure_sensitivity
from bitwright.training import Checkpointing, TrainResult, TrainSettings, load_quantized, save_quantized, train
from bitwright.zoo.recipes import Recipe, parse_recipe, recipe
from reliability.networks import images, tiny_graph, tiny_quantized


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        name: Of the format, and of its file.
        load: Reads a file.
        use: What a user does next with what was read.
        metadata: The keys of the JSON in a safetensors file; none for JSON and YAML files.
        refusals: What a file is refused with.
    """

    name: str
    load: Callable[[Path], Any]
    use: Callable[[Any], object]
    metadata: tuple[str, ...] = ()
    refusals: tuple[type[BitwrightError], ...] = (FileFormatError,)


@torch.no_grad()
def _forward(model: Any) -> object:
    return model(images().new_zeros((2, *_shape(model))))


def _shape(model: Any) -> tuple[int, ...]:
    return tuple((model.plan.graph if hasattr(model, "plan") else model._graph).input_shape)


def _search(table: SensitivityTable) -> object:
    return [(entry.loss_increase(Precision(4, 4)), str(table.unconverged())) for entry in table.layers]


_graph = cache(tiny_graph)


class _Stop(Exception):
    """Work is interrupted."""


def _interrupt(done: int, total: int, /, **figures: float) -> None:
    if done == 3:
        raise _Stop


def _recipe(path: Path) -> Recipe:
    return parse_recipe(read_text(path), str(path))


def _go_on_training(path: Path, progress: Progress = silent) -> TrainResult:
    """Two epochs of two steps."""
    batches = [(images(), torch.arange(4)), (images(), torch.arange(4) + 4)]
    checkpoint = Checkpointing(path, steps=1, resume=True)
    return train(FloatModel(_graph()), batches, TrainSettings(epochs=2), checkpoint=checkpoint, progress=progress)


def _go_on_measuring(path: Path, progress: Progress = silent) -> SensitivityTable:
    return measure_sensitivity(
        _graph(),
        images(),
        torch.arange(4),
        SensitivitySettings(metric="empirical_fisher", max_probes=8),
        checkpoint=path,
        resume=True,
        progress=progress,
    )


def _go_on_demonstrating(path: Path) -> None:
    open_folder(path.parent, {"seed": 0, "quantized": {"epochs": 1}}, ["float.graph", "table.json"], resume=True)


FORMATS = (
    Format("tiny.graph", Graph.load, lambda graph: _forward(FloatModel(graph)), ("graph",)),
    Format("tiny.checkpoint", load_quantized, _forward, ("structure",)),
    Format(
        "tiny.integer",
        load_integer,
        lambda model: run(model, torch.zeros((2, *model.input_shape))),
        ("structure",),
    ),
    Format("tiny.sensitivities.json", SensitivityTable.load, SensitivityTable.to_dict),
    Format("tiny.latency.json", LatencyTable.load, LatencyTable.to_dict),
    Format("tiny.frontier.json", ParetoFrontier.load, ParetoFrontier.to_dict),
    Format("tiny.allocation.json", Allocation.load, str),
    Format("tiny.yaml", Scheme.load, Scheme.to_dict),
    Format("recipe.yaml", _recipe, Recipe.settings, refusals=(FileFormatError, SchemeError)),
    # A weight that became NaN stops the training, which says where the state is.
    Format("training.state", _go_on_training, str, ("settings", "progress"), (FileFormatError, TrainingError)),
    Format("measurement.state", _go_on_measuring, SensitivityTable.to_dict, ("settings",)),
    Format(RECORD, _go_on_demonstrating, str, refusals=(FileFormatError, DataError, OutputError)),
)


def write_all(folder: Path) -> None:
    """A file of each format."""
    graph = tiny_graph()
    graph.save(folder / "tiny.graph")
    quantized = tiny_quantized(graph)
    save_quantized(folder / "tiny.checkpoint", quantized)
    from bitwright.integer import lower

    lower(quantized).save(folder / "tiny.integer")
    table = sensitivities(graph)
    table.save(folder / "tiny.sensitivities.json")
    by_shape = {shape: {Precision(4, 4): 1.0, Precision(8, 8): 2.0} for shape in layer_shapes(graph).values()}
    LatencyTable("a device", "an engine", 1, by_shape).save(folder / "tiny.latency.json")
    problem = graph_problem(graph, table)
    pareto_frontier(problem, "size", 5, [Budget("bops", 100)]).save(folder / "tiny.frontier.json")
    found = allocate(problem, [Budget.parse("size0.5")], explain=True)
    found.save(folder / "tiny.allocation.json")
    found.scheme.save(folder / "tiny.yaml")
    recipe("resnet18-bops0.5").save(folder / "recipe.yaml")
    for name, begin in (("training.state", _go_on_training), ("measurement.state", _go_on_measuring)):
        with suppress(_Stop):
            begin(folder / name, _interrupt)
    (folder / "demonstration").mkdir()
    _go_on_demonstrating(folder / "demonstration" / RECORD)
    (folder / "demonstration" / RECORD).rename(folder / RECORD)


def sensitivities(graph: Graph) -> SensitivityTable:
    """Figures for each layer, as if they had been measured."""
    layers = []
    for number, (name, layer) in enumerate(graph.layers.items()):
        size = graph.parameters[layer.weight].numel()
        moved = {bits: 0.1 / bits for bits in range(2, 9)}
        read = LayerSensitivity(name, 64, 1.0, 0.1, 10, True, moved)
        layers.append(LayerSensitivity(name, size, 1.0 + number, 0.1, 10, True, moved, 0.1, {}, read))
    return SensitivityTable(tuple(layers), "gauss_newton_trace", graph.model, "mnist-5k", 4, 0)
