# SPDX-License-Identifier: MIT
"""Quantization-aware training: where quantizers stand, how scales are found, the loop, checkpoints, accuracy."""

from bitwright.training.calibrate import Calibration, calibrate
from bitwright.training.checkpoint import load_quantized, save_quantized
from bitwright.training.distillation import Distillation
from bitwright.training.evaluate import Accuracy, evaluate
from bitwright.training.fine_tune import TrainSettings, fine_tune, fit
from bitwright.training.loop import TrainResult, train
from bitwright.training.model import QuantizedModel, quantize
from bitwright.training.quantized import Certificate, Quantized
from bitwright.training.quantizers import Ranges

__all__ = [
    "Accuracy",
    "Calibration",
    "Certificate",
    "Distillation",
    "Quantized",
    "QuantizedModel",
    "Ranges",
    "TrainResult",
    "TrainSettings",
    "calibrate",
    "evaluate",
    "fine_tune",
    "fit",
    "load_quantized",
    "quantize",
    "save_quantized",
    "train",
]
