# SPDX-License-Identifier: MIT
"""How files name what they return."""

from __future__ import annotations


def integer_name(output: str) -> str:
    """The int32 tensor of an output, whose real values have the output's own name.

    >>> integer_name("logits")
    'logits_int32'
    """
    return f"{output}_int32"
