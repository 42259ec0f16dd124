# SPDX-License-Identifier: MIT
"""Real engines, run and timed."""

from bitwright.benchmark.predictor import Predictor, predictor

__all__ = ["Predictor", "predictor"]
