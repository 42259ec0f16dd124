# SPDX-License-Identifier: MIT
"""Mixed-precision integer quantization of convolutional networks: what you evaluate is what you deploy."""

from bitwright.scheme import Budget, Precision, Scheme

__version__ = "0.1.0"

__all__ = ["Budget", "Precision", "Scheme", "__version__"]
