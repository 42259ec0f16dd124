# SPDX-License-Identifier: MIT
"""Executors: the literal reference, the prepared one, and GPU kernels."""

__all__: list[str] = []
