# SPDX-License-Identifier: MIT
"""What is proved of integers: theorems, certificates, bounds, and the check of a model from anywhere."""

__all__: list[str] = []
