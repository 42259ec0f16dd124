# SPDX-License-Identifier: MIT
"""Instructions each of which is one module: the operation, how nodes become it, its proof, and its executors."""

# They enter themselves in the open functions when they are imported.
from bitwright.integer.operations.product import IntegerProduct
from bitwright.integer.operations.table import IntegerTable

__all__ = ["IntegerProduct", "IntegerTable"]
