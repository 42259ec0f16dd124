# SPDX-License-Identifier: MIT
"""Lowering whose proved constants the quantized model computes with afterwards, to compare the two in every tensor."""

from __future__ import annotations

from typing import Any

from bitwright.integer import IntegerModel, lowered
from bitwright.training import QuantizedModel


def certified(model: QuantizedModel, **options: Any) -> IntegerModel:
    """The integer model; `model` is in evaluation mode, and has the certificates."""
    found = lowered(model.eval(), **options)
    model.certify(found.certificates)
    return found.model
