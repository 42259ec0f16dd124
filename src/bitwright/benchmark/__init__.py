# SPDX-License-Identifier: MIT
"""Engines side by side: are they exact, and how fast are they."""

from bitwright.benchmark.checked_export import checked_export
from bitwright.benchmark.engine_process import EngineProcess, Setting
from bitwright.benchmark.engines import ENGINES, Engine, known_engine
from bitwright.benchmark.environment import Environment, environment
from bitwright.benchmark.equality import Equality, compare, verify
from bitwright.benchmark.layers import LayerLatencies, measure_layers
from bitwright.benchmark.predictor import Predictor, predictor
from bitwright.benchmark.profiles import profile
from bitwright.benchmark.runtimes import Predict, load_engine, runtime
from bitwright.benchmark.side_by_side import Measured, side_by_side
from bitwright.benchmark.stress import stress_images
from bitwright.benchmark.timing import Spread, Timings, time_interleaved

__all__ = [
    "ENGINES",
    "Engine",
    "EngineProcess",
    "Environment",
    "Equality",
    "LayerLatencies",
    "Measured",
    "Predict",
    "Predictor",
    "Setting",
    "Spread",
    "Timings",
    "checked_export",
    "compare",
    "environment",
    "known_engine",
    "load_engine",
    "measure_layers",
    "predictor",
    "profile",
    "runtime",
    "side_by_side",
    "stress_images",
    "time_interleaved",
    "verify",
]
