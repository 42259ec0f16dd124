# SPDX-License-Identifier: MIT
"""The front door: from a trained model and images to a proved file, with the accuracy that was asked for."""

from bitwright.auto.measured import Measured
from bitwright.auto.quantize import auto_quantize
from bitwright.auto.result import AutoResult
from bitwright.auto.searched import Searched
from bitwright.auto.settings import AutoSettings

__all__ = ["AutoResult", "AutoSettings", "Measured", "Searched", "auto_quantize"]
