# SPDX-License-Identifier: MIT
"""How much the loss suffers when a layer is quantized."""

from bitwright.sensitivity.hutchinson import TraceEstimate, hutchinson_trace
from bitwright.sensitivity.measure import weight_sensitivities
from bitwright.sensitivity.perturbation import weight_perturbation, weight_perturbations
from bitwright.sensitivity.table import LayerSensitivity, SensitivityTable
from bitwright.sensitivity.weight_scale import quantize_weight, weight_range, weight_scale

__all__ = [
    "LayerSensitivity",
    "SensitivityTable",
    "TraceEstimate",
    "hutchinson_trace",
    "quantize_weight",
    "weight_perturbation",
    "weight_perturbations",
    "weight_range",
    "weight_scale",
    "weight_sensitivities",
]
