# SPDX-License-Identifier: MIT
"""ONNX Runtime's own static quantizer, which integers of ours are compared with."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

BYTES = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}


class OneByOne(CalibrationDataReader):  # type: ignore[misc]
    """Calibration images, one at a time.

    Args:
        images: float32 [count, channels, height, width], the input `images` of the network.
    """

    def __init__(self, images: Any) -> None:
        self._left = iter(np.asarray(images))

    def get_next(self) -> dict[str, Any] | None:
        image = next(self._left, None)
        return None if image is None else {"images": image[None]}


def quantized_session(source: Path, target: Path, images: Any) -> ort.InferenceSession:
    """A float file, quantized to W8A8 at the defaults but for a scale a channel, on one thread.

    Args:
        source: The float file.
        target: The file to write.
        images: To calibrate on.
    """
    with redirect_stdout(sys.stderr):
        quantize_static(source, target, OneByOne(images), per_channel=True, **BYTES)
    options = ort.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 3, 1
    return ort.InferenceSession(str(target), options, providers=["CPUExecutionProvider"])
