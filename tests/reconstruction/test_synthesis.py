# SPDX-License-Identifier: MIT
"""Images made from batch norm: their statistics are those that it remembers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bitwright.errors import DataError
from bitwright.graph import capture
from bitwright.reconstruction import synthesised
from bitwright.reconstruction.synthesis import statistics_distance
from training.small import small_graph


def test_statistics_become_those_of_batch_norm() -> None:
    """Nearer by far than those of noise, whatever the count, and every step is told."""
    graph, told = small_graph(), list[tuple[int, int]]()
    images = synthesised(graph, 70, steps=40, progress=lambda done, total, **_: told.append((done, total)))
    assert images.shape == (70, 1, 28, 28)
    assert told == [(step, 80) for step in range(1, 81)]
    parameters = dict(graph.parameters)
    noise = torch.randn(64, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = (float(statistics_distance(graph, part, parameters)) for part in (noise, images[:64]))
    assert after < 0.3 * before


def test_equal_seeds_make_equal_images() -> None:
    """And other seeds others."""
    first = synthesised(small_graph(), 4, steps=2, seed=1)
    assert torch.equal(first, synthesised(small_graph(), 4, steps=2, seed=1))
    assert not torch.equal(first, synthesised(small_graph(), 4, steps=2, seed=2))


def test_networks_without_batch_norm_and_no_images_are_refused() -> None:
    """By what is missing."""
    plain = capture(nn.Sequential(nn.Flatten(), nn.Linear(16, 2)).eval(), (1, 4, 4), name="plain")
    with pytest.raises(DataError, match="plain has no batch norm"):
        synthesised(plain, 1)
    with pytest.raises(DataError, match="at least one image"):
        synthesised(small_graph(), 0)
