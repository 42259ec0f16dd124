# SPDX-License-Identifier: MIT
"""How much the loss suffers when a layer is quantized."""

from bitwright.sensitivity.weight_scale import quantize_weight, weight_range, weight_scale

__all__ = ["quantize_weight", "weight_range", "weight_scale"]
