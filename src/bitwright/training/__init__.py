# SPDX-License-Identifier: MIT
"""Quantization-aware training: where quantizers stand, how scales are found, and the loop."""

from bitwright.training.calibrate import Calibration, calibrate
from bitwright.training.model import QuantizedModel, quantize
from bitwright.training.plan import QuantPlan, TensorSpec, plan
from bitwright.training.quantized import Certificate, Quantized
from bitwright.training.quantizers import Ranges

__all__ = [
    "Calibration",
    "Certificate",
    "QuantPlan",
    "Quantized",
    "QuantizedModel",
    "Ranges",
    "TensorSpec",
    "calibrate",
    "plan",
    "quantize",
]
