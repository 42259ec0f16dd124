# SPDX-License-Identifier: MIT
"""Files for engines: each exporter reads an IntegerModel and refuses what it cannot guarantee to give the same integers."""

from collections.abc import Callable
from pathlib import Path

from bitwright.export.float_onnx import export_float_onnx, to_float_onnx
from bitwright.export.onnx import export_onnx, to_onnx
from bitwright.export.target import Target
from bitwright.integer.model import IntegerModel

EXPORTERS: dict[str, Callable[[IntegerModel, str | Path, Target], object]] = {"onnx": export_onnx}
"""By the name of the engine."""


__all__ = ["EXPORTERS", "Target", "export_float_onnx", "export_onnx", "to_float_onnx", "to_onnx"]
