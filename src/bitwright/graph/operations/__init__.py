# SPDX-License-Identifier: MIT
"""Operations each of which is one module: its node, and what that means wherever a graph is looked at."""

# They enter themselves in the open functions when they are imported.
from bitwright.graph.operations.product import Product
from bitwright.graph.operations.table import Table

__all__ = ["Product", "Table"]
