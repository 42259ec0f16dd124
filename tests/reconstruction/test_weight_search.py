# SPDX-License-Identifier: MIT
"""Coordinate descent on integers, and scales by what is lost: against their literal twins, and never a loss."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from bitwright.quantizer.formats import TensorFormat
from bitwright.quantizer.weights import weight_format, weight_scale
from bitwright.reconstruction import compensate_rounding, coordinate_descent, scale_search
from bitwright.reconstruction.compensated_weights import compensated, damped
from bitwright.reconstruction.coordinate_descent import descended
from bitwright.reconstruction.damping import USUAL
from bitwright.reconstruction.scale_search import FEW, LEAST, MANY, MOST, searched
from bitwright.scheme import Precision, Scheme
from bitwright.training import Ranges, calibrate, quantize
from reconstruction.test_compensation import WINDOW, correlated, moments_of
from training.small import digits, small_graph


def lost(made: Tensor, weight: Tensor, matrix: Tensor) -> Tensor:
    """Shape (groups, channels)."""
    return (((made - weight) @ matrix) * (made - weight)).sum(2)


def literal(integers: Tensor, weight: Tensor, matrix: Tensor, window: TensorFormat, sweeps: int) -> Tensor:
    """Of one channel: every integer of the window is tried for one weight after another."""
    found = integers.clone()
    for _ in range(sweeps):
        for place in range(len(found)):
            tried = found.repeat(window.quant_max - window.quant_min + 1, 1)
            tried[:, place] = torch.arange(window.quant_min, window.quant_max + 1)
            errors = (((tried - weight) @ matrix) * (tried - weight)).sum(1)
            found[place] = tried[errors.argmin(), place]
    return found


@given(
    groups=st.integers(1, 3), weights=st.integers(1, 9), columns=st.integers(1, 9), sweeps=st.integers(1, 4),
    seed=st.integers(0, 2**16),
)  # fmt: skip
def test_all_channels_descend_as_each_does(groups: int, weights: int, columns: int, sweeps: int, seed: int) -> None:
    """Of groups, in any number of parts; none loses by it."""
    weight, rows = correlated(groups, weights, seed)
    matrix = damped(moments_of(rows), USUAL)
    begun = weight.round().clamp(WINDOW.quant_min, WINDOW.quant_max)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(coordinate_descent, "COLUMNS", columns)
        patch.setattr(coordinate_descent, "SWEEPS", sweeps)
        made = descended(begun, weight, matrix, WINDOW)
    assert bool((lost(made, weight, matrix) <= lost(begun, weight, matrix) * (1 + 1e-9)).all())
    for group in range(groups):
        for channel in range(3):
            wanted = literal(begun[group, channel], weight[group, channel], matrix[group], WINDOW, sweeps)
            assert torch.equal(made[group, channel], wanted)


@pytest.mark.parametrize(("bits", "least"), [(3, 0.93), (4, 0.88), (8, 0.65)])
def test_few_weights_lose_much_less_by_other_scales(bits: int, least: float) -> None:
    """Of 9, as depthwise layers have: on results that they were not chosen for, too; the more, the more bits."""
    window, parts = weight_format(bits), list[tuple[float, float]]()
    for seed in range(8):
        weight, rows = correlated(16, 9, seed, results=600)
        first, second = rows.chunk(2, 1)
        moments = moments_of(first)
        scale = weight_scale(weight.flatten(0, 1).float(), bits).double().reshape(16, 3, 1)
        found = searched(weight, scale, moments, window, USUAL)
        losses = []
        for some in (scale, found):
            made = compensated(weight / some, moments, window, USUAL) * some
            losses.append(float(lost(made, weight, moments_of(second)).sum()))
        parts.append((losses[0], losses[1]))
    assert sum(after for _, after in parts) < least * sum(before for before, _ in parts)


def test_the_scale_is_the_best_of_those_that_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each channel, tried alone; some at a time."""
    weight, rows = correlated(2, 5, 0)
    moments, scale = moments_of(rows), torch.full((2, 3, 1), 0.7).double()
    monkeypatch.setattr(scale_search, "AT_ONCE", 7 * weight.numel())
    found = searched(weight, scale, moments, WINDOW, USUAL)
    factors = torch.cat([torch.ones(1), torch.linspace(LEAST, MOST, MANY)]).double()
    matrix = damped(moments, USUAL)
    for group in range(2):
        for channel in range(3):
            own, row = (values[group : group + 1, channel : channel + 1] for values in (scale, weight))
            losses = [
                float(lost(compensated(row / tried, moments[group, None], WINDOW, USUAL) * tried, row, matrix[group]))
                for tried in own * factors[:, None, None, None]
            ]
            assert found[group, channel] == scale[group, channel] * factors[losses.index(min(losses))]


def test_where_few_can_be_tried_scales_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wide layers would take minutes, and gain little."""
    weight, rows = correlated(2, 5, 0)
    given = weight, torch.full((2, 3, 1), 0.7).double(), moments_of(rows), WINDOW, USUAL
    work = weight.numel() * weight.shape[2]
    monkeypatch.setattr(scale_search, "PRODUCTS", FEW * work)
    assert not torch.equal(searched(*given), given[1])
    monkeypatch.setattr(scale_search, "PRODUCTS", FEW * work - 1)
    assert torch.equal(searched(*given), given[1])


@pytest.mark.parametrize("ranges", list(Ranges))
@pytest.mark.parametrize("per_channel", [True, False])
def test_only_learned_scales_of_single_channels_move(ranges: Ranges, *, per_channel: bool) -> None:
    """Those that are fixed or follow the weights stay, and those of whole layers."""
    graph, images = small_graph(), digits().calibration(64)[0]
    scheme = Scheme.uniform(graph.layers, Precision(4, 4))
    model = calibrate(quantize(graph, scheme, ranges=ranges, per_channel=per_channel), [images])
    scales = {name: value.clone() for name, value in model.weights.state_dict().items()}
    compensate_rounding(model, images)
    moved = [not torch.equal(value, scales[name]) for name, value in model.weights.state_dict().items()]
    assert any(moved) == (ranges is Ranges.LEARNED and per_channel)
