# SPDX-License-Identifier: MIT
"""The form of QONNX."""

__all__: list[str] = []
