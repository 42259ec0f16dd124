# SPDX-License-Identifier: MIT
"""How operations of `graph.operations` are computed in a QuantizedModel, one module each."""

# They enter themselves in the open functions when they are imported.
from bitwright.training.operations import product as _product
from bitwright.training.operations import table as _table

del _product, _table

__all__: list[str] = []
