# SPDX-License-Identifier: MIT
"""OpenVINO's own intermediate representation."""

__all__: list[str] = []
