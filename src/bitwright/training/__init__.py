# SPDX-License-Identifier: MIT
"""Quantization-aware training: where quantizers stand, how scales are found, the loop, checkpoints, accuracy."""

from bitwright.training import operations as _operations
from bitwright.training.calibrate import Calibration, calibrate, set_ranges, transfer_scales
from bitwright.training.checkpoint import Trained, load_quantized, load_trained, save_quantized
from bitwright.training.distillation import Distillation, DivergenceScale
from bitwright.training.evaluate import evaluate
from bitwright.training.fine_tune import calibrated, fine_tune, fit
from bitwright.training.layerwise import fine_tune_layerwise
from bitwright.training.loop import TrainResult, train
from bitwright.training.model import QuantizedModel, quantize
from bitwright.training.norm_correction import correct_norm
from bitwright.training.quantized import Certificate, Quantized
from bitwright.training.quantizers import QuantizerSettings, Ranges
from bitwright.training.recording import EpochLines, Judged, Recorder
from bitwright.training.settings import Checkpointing, Epoch, Hooks, Schedule, Start, Step, TrainSettings
from bitwright.training.tracking import TRACKERS, require_tracker, tracked

del _operations

__all__ = [
    "Calibration",
    "Certificate",
    "Checkpointing",
    "Distillation",
    "DivergenceScale",
    "Epoch",
    "EpochLines",
    "Hooks",
    "Judged",
    "Quantized",
    "QuantizedModel",
    "QuantizerSettings",
    "Ranges",
    "Recorder",
    "Schedule",
    "Start",
    "Step",
    "TRACKERS",
    "TrainResult",
    "TrainSettings",
    "Trained",
    "calibrate",
    "calibrated",
    "correct_norm",
    "evaluate",
    "fine_tune",
    "fine_tune_layerwise",
    "fit",
    "load_quantized",
    "load_trained",
    "quantize",
    "require_tracker",
    "save_quantized",
    "set_ranges",
    "tracked",
    "train",
    "transfer_scales",
]
