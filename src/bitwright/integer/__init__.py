# SPDX-License-Identifier: MIT
"""Integers only: certified multipliers, lowering, the integer model and its reference executor."""

from bitwright.integer.execution.prepare import prepare
from bitwright.integer.execution.prepared import PreparedModel
from bitwright.integer.execution.reference import logits, run
from bitwright.integer.load import load
from bitwright.integer.lowering.certification_effect import CertificationEffect, certification_effect
from bitwright.integer.lowering.lower import Lowered, lower, lowered
from bitwright.integer.model import IntegerModel
from bitwright.integer.multipliers import Multipliers, requantize
from bitwright.integer.operations.product import IntegerProduct
from bitwright.integer.operations.table import IntegerTable
from bitwright.integer.proof.certificate import Certified, certify
from bitwright.integer.quant_params import QuantParams
from bitwright.integer.reader import load_integer

__all__ = [
    "CertificationEffect",
    "Certified",
    "IntegerModel",
    "IntegerProduct",
    "IntegerTable",
    "Lowered",
    "Multipliers",
    "PreparedModel",
    "QuantParams",
    "certification_effect",
    "certify",
    "load",
    "load_integer",
    "logits",
    "lower",
    "lowered",
    "prepare",
    "requantize",
    "run",
]
