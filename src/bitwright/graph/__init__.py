# SPDX-License-Identifier: MIT
"""A network as data: captured from PyTorch, simplified, executed in float, counted."""

from bitwright.cost import LayerCost, ModelCost, scheme_cost
from bitwright.graph.capture import capture
from bitwright.graph.cost import float_cost, layer_costs, parameter_count
from bitwright.graph.evaluate import folded_weight
from bitwright.graph.execute import execute
from bitwright.graph.float_model import FloatModel
from bitwright.graph.graph import Graph
from bitwright.graph.operations.product import Product
from bitwright.graph.operations.table import Table
from bitwright.graph.sources import load_model
from bitwright.graph.ties import ties

__all__ = [
    "FloatModel",
    "Graph",
    "LayerCost",
    "ModelCost",
    "Product",
    "Table",
    "capture",
    "execute",
    "float_cost",
    "folded_weight",
    "layer_costs",
    "load_model",
    "parameter_count",
    "scheme_cost",
    "ties",
]
