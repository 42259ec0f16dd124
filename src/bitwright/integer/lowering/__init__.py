# SPDX-License-Identifier: MIT
"""From a quantized model to proved integers."""

__all__: list[str] = []
