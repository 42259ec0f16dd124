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
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from static_quantizer import quantized_session

    if width != "W8A8":
        raise BitwrightError("ONNX Runtime's static quantizer has no activations below 8 bits, and no schemes.")

    with tempfile.TemporaryDirectory() as folder:
        exported, ready, static = (Path(folder) / name for name in ("float.onnx", "ready.onnx", "static.onnx"))
        export_float_onnx(graph, exported)
        with redirect_stdout(sys.stderr):
            quant_pre_process(str(exported), str(ready), skip_symbolic_shape=True)
        session = quantized_session(ready, static, images)

    def predict(batch: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"images": batch.cpu().numpy()})[0])

    return predict, {"onnxruntime": version("onnxruntime"), "calibration": "MinMax", "per_channel": True}


PEERS: dict[str, Peer] = {"onnxruntime": onnxruntime}
"""By the name in their rows' way, `peer-NAME`."""
