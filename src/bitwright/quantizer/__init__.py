# SPDX-License-Identifier: MIT
"""What quantization means for a tensor: its format, its scale, and where a network's quantizers stand."""

from bitwright.quantizer.activations import full_scale, least_squares_scale, quantize_activation
from bitwright.quantizer.demand import Demand, demand, demands
from bitwright.quantizer.formats import TensorFormat, clamp_limits
from bitwright.quantizer.plan import QuantPlan, plan
from bitwright.quantizer.refusals import Refusal, lowering_refusals, require_none
from bitwright.quantizer.weights import quantize_weight, weight_format, weight_scale
from bitwright.quantizer.windows import least_squares_format, smallest_format, smallest_window

__all__ = [
    "Demand",
    "QuantPlan",
    "Refusal",
    "TensorFormat",
    "clamp_limits",
    "demand",
    "demands",
    "full_scale",
    "least_squares_format",
    "least_squares_scale",
    "lowering_refusals",
    "plan",
    "quantize_activation",
    "quantize_weight",
    "require_none",
    "smallest_format",
    "smallest_window",
    "weight_format",
    "weight_scale",
]
