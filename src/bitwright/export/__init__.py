# SPDX-License-Identifier: MIT
"""Files that engines run, each guaranteed to give the integers of the model."""

from bitwright.export.float_onnx import export_float_onnx, to_float_onnx
from bitwright.export.onnx import export_onnx, to_onnx
from bitwright.export.target import Target

__all__ = ["Target", "export_float_onnx", "export_onnx", "to_float_onnx", "to_onnx"]
