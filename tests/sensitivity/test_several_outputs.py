# SPDX-License-Identifier: MIT
"""Sensitivities of networks with several outputs: those of the sum of their losses, against full Jacobians; or of one output."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from bitwright.errors import DataError, TaskError, UnknownNameError
from bitwright.graph import FloatModel, Graph, execute, folded_weight
from bitwright.scheme import Precision
from bitwright.sensitivity import (
    METRICS,
    GraphLoss,
    SamplingLimits,
    SensitivitySettings,
    gauss_newton_trace,
    measure_sensitivity,
)
from bitwright.task import SquaredCurvature, Task, agreement, classification
from sensitivity.problems import in_float64
from several_outputs import captured, images

NAME = "tuple"
LABELS = torch.tensor([1, 4, 0])


def objective(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
    """Of both outputs, one of them not convex."""
    classes = torch.nn.functional.cross_entropy(outputs["output0"], targets)
    return classes + outputs["output1"].square().cos().mean()


TASKS = {"own": Task(name="own", loss=objective, several_outputs=True), "agreement": agreement()}


def network() -> Graph:
    """Logits, and maps of six channels, in float64."""
    return in_float64(captured(NAME)[1])


def literal_traces(task: Task, graph: Graph, given: Tensor, targets: Tensor) -> dict[str, float]:
    """Of J^T S J of each layer, mean over images: every Jacobian and the whole Hessian of the loss by all outputs of an image."""
    folded = {name: folded_weight(node, graph.parameters) for name, node in graph.layers.items()}
    shapes = graph.output_shapes
    sizes = [math.prod(shape) for shape in shapes.values()]

    def named(row: Tensor) -> dict[str, Tensor]:
        parts = zip(shapes.items(), row.split(sizes), strict=True)
        return {name: part.reshape(1, *shape) for (name, shape), part in parts}

    found = dict.fromkeys(folded, 0.0)
    for image, target in zip(given.split(1), targets.split(1), strict=True):
        returned = execute(graph, graph.parameters, image)
        row = torch.cat([values.flatten() for values in returned.values()])
        wanted = {name: values.detach() for name, values in returned.items()} if task.label_free else target
        hessian = torch.autograd.functional.hessian(lambda row, wanted=wanted: task.loss(named(row), wanted), row)
        for name, (weight, bias) in folded.items():

            def outputs(moved: Tensor, name: str = name, bias: Tensor | None = bias, image: Tensor = image) -> Tensor:
                made = execute(graph, graph.parameters, image, weights={**folded, name: (moved, bias)})
                return torch.cat([values.flatten() for values in made.values()])

            jacobian = torch.autograd.functional.jacobian(outputs, weight).reshape(len(row), -1)
            found[name] += float(torch.trace(jacobian.T @ hessian @ jacobian)) / len(given)
    return found


@pytest.mark.parametrize("name", TASKS)
def test_exact_traces_are_those_of_full_jacobians(name: str) -> None:
    """Of all outputs together: a loss of one's own, and agreement without labels."""
    task, graph, given, labels = TASKS[name], network(), images(2).double(), LABELS[:2]
    loss = GraphLoss(graph, given, None if task.label_free else labels, task)
    found = gauss_newton_trace(loss, limits=SamplingLimits(relative_error=0))
    for layer, expected in literal_traces(task, graph, given, labels).items():
        assert math.isclose(found[layer].weights.value, expected, rel_tol=1e-9)


def test_drawn_squares_are_each_outputs_own_mean(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every draw has the very diagonal: of two outputs in a row, one over the numbers of each."""
    monkeypatch.setattr("bitwright.task.curvature.MAX_AXES", 0)
    outputs = torch.zeros(2, 5)
    factor = SquaredCurvature((2, 3)).factor(outputs, outputs)
    vectors, signs = factor.directions(torch.arange(4))
    expected = torch.tensor([1 / 2] * 2 + [1 / 3] * 3, dtype=torch.float64)
    torch.testing.assert_close(factor.weights[0] * vectors.square(), expected.expand(4, 5))
    assert torch.equal(signs, torch.ones(4, dtype=torch.float64))
    product = SquaredCurvature((2, 3)).product(outputs, outputs, torch.ones(2, 5))
    torch.testing.assert_close(product, expected.float().expand(2, 5))


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_measures_all_outputs(metric: str) -> None:
    """With labels and without: a table of all layers, and more loss with fewer bits; the layer of every output counts."""
    graph = captured(NAME)[1]
    settings = SensitivitySettings(metric=metric, relative_error=0.5, max_probes=40, bits=[2, 8])
    for task, labels in ((TASKS["own"], LABELS), (TASKS["agreement"], None)):
        table = measure_sensitivity(graph, images(3), labels, settings, task=task)
        assert [layer.layer for layer in table.layers] == list(graph.layers)
        if task.label_free and metric != "empirical_fisher":  # which is zero where nothing differs
            for layer in table.layers:
                assert layer.loss_increase(Precision(2, 2)) > layer.loss_increase(Precision(8, 8)) > 0


def test_one_output_is_measured_by_name() -> None:
    """As the task of one output is of it; layers that it does not need have no weight."""
    graph = captured(NAME)[1]
    settings = SensitivitySettings(relative_error=0.3, bits=[4])
    table = measure_sensitivity(graph, images(3), LABELS, settings, task=classification(), output="output0")
    worth = {layer.layer: layer.loss_increase(Precision(4, 4)) for layer in table.layers}
    assert worth["head"] == 0
    assert min(worth["logits"], worth["stem.0"]) > 0
    alone = measure_sensitivity(graph, images(3), None, settings, task=agreement(), output="output1")
    given = measure_sensitivity(
        graph, images(3), None, settings, task=agreement(FloatModel(graph).eval()), output="output1"
    )
    assert alone.layers == given.layers
    assert (alone.output, given.output) == ("output1", "output1")
    assert [layer.layer for layer in alone.layers if layer.loss_increase(Precision(4, 4)) == 0] == [
        "features",
        "logits",
    ]


def test_what_does_not_fit_is_refused() -> None:
    """A task of one output, an unknown output, a reference that returns something else."""
    graph = captured(NAME)[1]
    with pytest.raises(TaskError, match="returns output0, output1, but the task classification is of one output"):
        GraphLoss(graph, images(3), LABELS)
    with pytest.raises(UnknownNameError, match=r"unknown output 'logits'.* Known: output0, output1"):
        GraphLoss(graph, images(3), LABELS, output="logits")
    other = FloatModel(captured("features and logits")[1]).eval()
    unlike = "the reference returns features 8, logits 5 for each image, the model output0 5, output1 6 x 8 x 6"
    with pytest.raises(DataError, match=unlike):
        GraphLoss(graph, images(3), None, agreement(other))
    with pytest.raises(DataError, match="returns features 8, logits 5 for each image, the model output1 6 x 8 x 6"):
        GraphLoss(graph, images(3), None, agreement(other), output="output1")


def test_one_output_is_compared_with_as_many_numbers() -> None:
    """A reference of another shape would be spread over the outputs, without a word."""
    graph = captured("viewed")[1]
    flat = graph.output_shapes["flat"]
    with pytest.raises(DataError, match="the reference returns 6 x 1 for each image, the model 6 x 48: give the float"):
        GraphLoss(graph, images(3), None, agreement(lambda x: {"flat": x.new_zeros(3, 6, 1), "b": x}), output="flat")
    GraphLoss(graph, images(3), None, agreement(lambda x: {"flat": x.new_zeros(3, *flat), "b": x}), output="flat")
