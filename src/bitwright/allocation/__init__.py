# SPDX-License-Identifier: MIT
"""Which layer gets how many bits: an exact integer program, its Pareto frontier, latency tables."""

from bitwright.allocation.activation import PeakActivation, peak_activation
from bitwright.allocation.frontier import FrontierPoint, ParetoFrontier, pareto_frontier
from bitwright.allocation.latency import LatencyTable
from bitwright.allocation.layerwise import layerwise_schemes
from bitwright.allocation.least import allocate_least
from bitwright.allocation.problem import Problem, allocation_problem, graph_problem, table_losses
from bitwright.allocation.result import Allocation, BudgetUse, Change
from bitwright.allocation.search import allocate
from bitwright.allocation.shapes import ConvShape, LayerShape, LinearShape, layer_shapes, parse_shape

__all__ = [
    "Allocation",
    "BudgetUse",
    "Change",
    "ConvShape",
    "FrontierPoint",
    "LatencyTable",
    "LayerShape",
    "LinearShape",
    "ParetoFrontier",
    "PeakActivation",
    "Problem",
    "allocate",
    "allocate_least",
    "allocation_problem",
    "graph_problem",
    "layer_shapes",
    "layerwise_schemes",
    "pareto_frontier",
    "parse_shape",
    "peak_activation",
    "table_losses",
]
