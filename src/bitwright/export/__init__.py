# SPDX-License-Identifier: MIT
"""Files that engines run, each guaranteed to give the integers of the model."""

from bitwright.export.onnx import export_onnx, to_onnx

__all__ = ["export_onnx", "to_onnx"]
