# SPDX-License-Identifier: MIT
"""Captured networks of the zoo, shared by its tests."""

from __future__ import annotations

from functools import cache

import pytest

from bitwright.graph import Graph, capture, load_model
from bitwright.zoo.counts import image_size_of


@cache
def _graph(model: str, side: int) -> Graph:
    return capture(load_model(f"pytorchcv:{model}", in_size=side), (3, side, side), name=f"pytorchcv:{model}")


@pytest.fixture(scope="session")
def zoo_graph():
    """`zoo_graph(model, side=None)`: a network of the zoo with random weights, captured once."""
    return lambda model, side=None: _graph(model, side or image_size_of(model))
