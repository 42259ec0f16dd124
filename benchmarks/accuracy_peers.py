# SPDX-License-Identifier: MIT
"""Other quantizers for `benchmarks/accuracy.py`: the same float weights and calibration images, evaluated by their engine."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bitwright.errors import BitwrightError
from bitwright.export import export_float_onnx
from bitwright.graph import Graph

Predict = Callable[[Tensor], Tensor]
Peer = Callable[[Graph, Tensor, str], tuple[Predict, dict[str, Any]]]


def onnxruntime(graph: Graph, images: Tensor, width: str) -> tuple[Predict, dict[str, Any]]:
    """ONNX Runtime's static quantizer, QDQ, at its defaults but for a scale a channel: what it predicts, and its settings."""
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    if width != "W8A8":
        raise BitwrightError("ONNX Runtime's static quantizer has no activations below 8 bits, and no schemes.")

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """The images, one at a time."""

        def __init__(self) -> None:
            self.left = iter(images.split(1))

        def get_next(self) -> dict[str, Any] | None:
            found = next(self.left, None)
            return None if found is None else {"images": found.numpy()}

    with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
        exported, ready, static = (Path(folder) / name for name in ("float.onnx", "ready.onnx", "static.onnx"))
        export_float_onnx(graph, exported)
        quant_pre_process(str(exported), str(ready), skip_symbolic_shape=True)
        kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(ready, static, Reader(), per_channel=True, **kinds)
        options = ort.SessionOptions()
        options.log_severity_level, options.intra_op_num_threads = 3, 1
        session = ort.InferenceSession(str(static), options, providers=["CPUExecutionProvider"])

    def predict(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": batch.cpu().numpy()})[0])

    return predict, {"onnxruntime": version("onnxruntime"), "calibration": "MinMax", "per_channel": True}


PEERS: dict[str, Peer] = {"onnxruntime": onnxruntime}
"""By the name in their rows' way, `peer-NAME`."""
