# SPDX-License-Identifier: MIT
"""How much the loss suffers when a layer is quantized."""

from bitwright.sensitivity.estimate import Estimate
from bitwright.sensitivity.hutchinson import hutchinson_trace
from bitwright.sensitivity.loss import GraphLoss
from bitwright.sensitivity.measure import METRICS, measure_sensitivity
from bitwright.sensitivity.perturbation import weight_perturbation, weight_perturbations
from bitwright.sensitivity.table import LayerSensitivity, SensitivityTable
from bitwright.sensitivity.weight_scale import quantize_weight, weight_range, weight_scale

__all__ = [
    "Estimate",
    "GraphLoss",
    "LayerSensitivity",
    "METRICS",
    "SensitivityTable",
    "hutchinson_trace",
    "measure_sensitivity",
    "quantize_weight",
    "weight_perturbation",
    "weight_perturbations",
    "weight_range",
    "weight_scale",
]
