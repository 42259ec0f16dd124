# SPDX-License-Identifier: MIT
"""Networks of hand-written TIR, compiled by Apache TVM."""

__all__: list[str] = []
