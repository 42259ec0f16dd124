# SPDX-License-Identifier: MIT
"""A network as data: captured from PyTorch, simplified, executed in float, counted."""

from bitwright.graph.capture import capture
from bitwright.graph.execute import FloatModel, execute, folded_weight
from bitwright.graph.graph import Graph

__all__ = ["FloatModel", "Graph", "capture", "execute", "folded_weight"]
