# SPDX-License-Identifier: MIT
"""Networks that are not piecewise linear: every metric is measured for what its name says, and none refuses."""

from __future__ import annotations

import math

import pytest
import torch

from bitwright.graph import execute, folded_weight
from bitwright.sensitivity import (
    METRICS,
    GraphLoss,
    SamplingLimits,
    SensitivitySettings,
    gauss_newton_trace,
    hutchinson_trace,
    measure_sensitivity,
)
from sensitivity.curved import curved_problem
from sensitivity.problems import dense_hessian


def test_gauss_newton_is_not_the_hessian_there() -> None:
    """Before SiLU and the gate, the traces of J^T S J and of the Hessian differ; behind them they are one."""
    graph, images, labels = curved_problem()
    loss = GraphLoss(graph, images, labels)
    found = gauss_newton_trace(loss, limits=SamplingLimits(relative_error=0))
    folded = {name: folded_weight(node, graph.parameters) for name, node in graph.layers.items()}
    for name, (weight, bias) in folded.items():

        def logits(moved: torch.Tensor, name: str = name, bias: torch.Tensor | None = bias) -> torch.Tensor:
            return execute(graph, graph.parameters, images, weights={**folded, name: (moved, bias)})

        jacobian = torch.autograd.functional.jacobian(logits, weight).reshape(*logits(weight).shape, -1)
        p = logits(weight).softmax(1)
        outer = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        literal = float(torch.einsum("ncw,ncd,ndw->", jacobian, outer, jacobian)) / len(images)
        assert math.isclose(found[name].weights.value, literal, rel_tol=1e-9)
        hessian = float(dense_hessian(graph, name, images, labels).trace())
        assert math.isclose(literal, hessian, rel_tol=1e-9) == (name == "fc")
        probed = hutchinson_trace(loss, {name: loss.weights[name]}, limits=SamplingLimits(0.02))[name]
        assert abs(probed.value - hessian) < 5 * probed.standard_error + 1e-9


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_measures_curved_networks(metric: str) -> None:
    """Each layer gets an entry, and what it reads, too."""
    settings = SensitivitySettings(metric=metric, relative_error=0.5, bits=[4])
    table = measure_sensitivity(*curved_problem(), settings)
    assert [layer.layer for layer in table.layers] == ["stem", "gate", "fc"]
    assert all(layer.activations is not None for layer in table.layers)
