# SPDX-License-Identifier: MIT
"""TIR functions for integer networks; each module needs the extra `tvm`, so nothing is imported here."""

__all__: list[str] = []
