# SPDX-License-Identifier: MIT
"""The form that ONNX Runtime executes, and whatever else is written as ONNX."""

__all__: list[str] = []
