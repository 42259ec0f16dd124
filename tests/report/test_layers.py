# SPDX-License-Identifier: MIT
"""A float network beside its integers, tensor by tensor, against figures made the plain way."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bitwright import compare_layers
from bitwright.errors import DataError
from bitwright.graph.execute import execute
from bitwright.integer import lower, run
from bitwright.report.layers import BINS, LayerComparison, first_fallen, largest_fall, where_it_falls
from training.small import digits, small_graph, small_quantized


def test_figures_are_those_of_the_tensors() -> None:
    """Decibels, clamped shares and counts, over batches of any size, are those of all images at once."""
    graph, model = small_graph(), lower(small_quantized("W4A4"))
    images, _ = digits().test.read(range(24))
    floats: dict[str, torch.Tensor] = {}
    integers: dict[str, torch.Tensor] = {}
    execute(graph, graph.parameters, images, observe=lambda node, value: floats.update({node.name: value.double()}))
    run(model, images, lambda name, value: integers.update({name: value.double()}))
    found = {entry.layer: entry for entry in compare_layers(graph, model, images.split(24))}
    assert set(model.layers()) <= set(found)
    for name, entry in found.items():
        if name in model.formats:
            params = model.formats[name]
            made = integers[name] * params.scale
            steps = floats[name] / params.scale
            outside = (steps < params.quant_min - 0.5) | (steps > params.quant_max + 0.5)
            assert entry.clamped == pytest.approx(float(outside.double().mean()), abs=1e-9)
        else:
            (unit,) = (output.unit for output in model.outputs.values())
            made = integers[name] * torch.from_numpy(unit)
        noise = float((floats[name] - made).square().sum())
        assert entry.snr_db == pytest.approx(10 * math.log10(float(floats[name].square().sum()) / noise))
        assert sum(entry.float_counts) == sum(entry.integer_counts) == made.numel()
        assert len(entry.float_counts) == BINS
    parts = compare_layers(graph, model, images.split(5))
    assert [(entry.layer, round(entry.snr_db, 6)) for entry in parts] == [
        (name, round(entry.snr_db, 6)) for name, entry in found.items()
    ]


def test_fewer_bits_are_noisier() -> None:
    """A layer's noise grows with every bit that the network loses."""
    images, _ = digits().test.read(range(8))
    heads = []
    for precision in ("W8A8", "W4A4", "W2A2"):
        heads.append(compare_layers(small_graph(), lower(small_quantized(precision)), images)[-1].snr_db)
    assert heads == sorted(heads, reverse=True)


def entry(name: str, snr: float, fall: float | None) -> LayerComparison:
    """One with these figures."""
    return LayerComparison(name, "IntegerConv2d", 8, snr, 0.0, fall, 0.0, 1.0, (1,) * BINS, (1,) * BINS)


@given(st.lists(st.floats(-10, 60), min_size=1, max_size=8))
def test_where_the_signal_falls(decibels: list[float]) -> None:
    """The first tensor below 20 dB, and the one that adds most noise, in a chain of them."""
    falls = [None, *(before - after for before, after in pairwise(decibels))]
    chain = [entry(str(place), snr, fall) for place, (snr, fall) in enumerate(zip(decibels, falls, strict=True))]
    first, worst = first_fallen(chain), largest_fall(chain)
    assert first == next((one for one in chain if one.snr_db < 20), None)
    shares = [10 ** (-snr / 10) for snr in decibels]
    added = [after - before for before, after in pairwise(shares)]
    if added and max(added) > 1e-9:
        assert worst is not None
        assert added[int(worst.layer) - 1] == pytest.approx(max(added))
    assert ("no tensor" in where_it_falls(chain)) == (first is None)


def test_what_cannot_be_compared() -> None:
    """No images, and another network."""
    model = lower(small_quantized("W4A4"))
    with pytest.raises(DataError, match="expected at least one image"):
        compare_layers(small_graph(), model, [])
    with pytest.raises(DataError, match="reads images of"):
        compare_layers(small_graph(), model, torch.zeros(1, 3, 5, 5))
