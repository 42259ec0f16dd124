# SPDX-License-Identifier: MIT
"""Flatbuffers for LiteRT."""

__all__: list[str] = []
