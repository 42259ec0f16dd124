# SPDX-License-Identifier: MIT
"""Integers only: certified multipliers, lowering, the integer model and its reference executor."""

from bitwright.integer.certificate import Certified, certify
from bitwright.integer.certification_effect import CertificationEffect, certification_effect
from bitwright.integer.load import load
from bitwright.integer.lower import lower
from bitwright.integer.model import IntegerModel
from bitwright.integer.multipliers import Multipliers, requantize
from bitwright.integer.prepared import PreparedModel, prepare
from bitwright.integer.quant_params import QuantParams
from bitwright.integer.reference import logits, run

__all__ = [
    "CertificationEffect",
    "Certified",
    "IntegerModel",
    "Multipliers",
    "PreparedModel",
    "QuantParams",
    "certification_effect",
    "certify",
    "load",
    "logits",
    "lower",
    "prepare",
    "requantize",
    "run",
]
