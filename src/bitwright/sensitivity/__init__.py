# SPDX-License-Identifier: MIT
"""How much the loss suffers when a layer is quantized."""

from bitwright.sensitivity.activation_eigenvalue import top_activation_eigenvalue
from bitwright.sensitivity.activations import (
    activation_formats,
    activation_perturbations,
)
from bitwright.sensitivity.checkpoint import Checkpoint, Partial
from bitwright.sensitivity.estimate import Estimate
from bitwright.sensitivity.gauss_newton import LayerCurvature, empirical_fisher_trace, gauss_newton_trace
from bitwright.sensitivity.hutchinson import activation_hutchinson_trace, hutchinson_trace
from bitwright.sensitivity.loss import GraphLoss
from bitwright.sensitivity.loss_perturbation import activation_loss_perturbation, weight_loss_perturbation
from bitwright.sensitivity.measure import measure_sensitivity
from bitwright.sensitivity.metrics import METRICS, Measurement, Metric, metric
from bitwright.sensitivity.perturbation import weight_perturbation, weight_perturbations
from bitwright.sensitivity.probing import SamplingLimits
from bitwright.sensitivity.settings import SensitivitySettings
from bitwright.sensitivity.table import LayerSensitivity, SensitivityTable
from bitwright.sensitivity.top_eigenvalue import top_eigenvalue

__all__ = [
    "Checkpoint",
    "Estimate",
    "GraphLoss",
    "LayerCurvature",
    "LayerSensitivity",
    "METRICS",
    "Measurement",
    "Metric",
    "Partial",
    "SamplingLimits",
    "SensitivitySettings",
    "SensitivityTable",
    "activation_formats",
    "activation_hutchinson_trace",
    "activation_loss_perturbation",
    "activation_perturbations",
    "empirical_fisher_trace",
    "gauss_newton_trace",
    "hutchinson_trace",
    "measure_sensitivity",
    "metric",
    "top_activation_eigenvalue",
    "top_eigenvalue",
    "weight_loss_perturbation",
    "weight_perturbation",
    "weight_perturbations",
]
