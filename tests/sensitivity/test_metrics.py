# SPDX-License-Identifier: MIT
"""Metrics by name: a new one is a decorated function, and the command line knows all of them."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import typer.main

from bitwright.cli import app
from bitwright.sensitivity import (
    METRICS,
    LayerSensitivity,
    Measurement,
    SensitivitySettings,
    measure_sensitivity,
    metric,
    metrics,
)
from bitwright.sensitivity.settings import DEFAULT_METRIC
from sensitivity.problems import problem


def test_a_metric_of_ones_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is given all that it needs, measured by its name, and its name is taken from then on."""
    monkeypatch.setattr(metrics, "_METRICS", {**METRICS})

    @metric("largest_weight", max_probes=7)
    def largest(asked: Measurement) -> tuple[LayerSensitivity, ...]:
        assert (asked.limits.max_probes, asked.settings.bits) == (10, (4,))  # no fewer than the least
        return tuple(
            LayerSensitivity(name, weight.numel(), float(weight.detach().abs().max()), 0.0, 0, True, {4: 1.0})
            for name, weight in asked.loss.weights.items()
        )

    table = measure_sensitivity(*problem(), SensitivitySettings(metric="largest_weight", bits=[4]))
    assert [layer.layer for layer in table.layers] == ["stem", "depthwise", "fc"]
    with pytest.raises(ValueError, match="the metric name 'largest_weight' is taken"):
        metric("largest_weight", max_probes=1)


def test_the_documents_name_every_metric() -> None:
    """The settings' docstring explains each, and so do the page about them and the command's help."""
    page = (Path(__file__).parents[2] / "docs" / "sensitivity.md").read_text(encoding="utf-8")
    command = typer.main.get_command(app).commands["sensitivity"]
    (option,) = (option for option in command.params if option.name == "metric")
    assert option.default == DEFAULT_METRIC
    for name in METRICS:
        assert f"`{name}`" in inspect.getdoc(SensitivitySettings)
        assert f"| `{name}`" in page
        assert name in option.help
