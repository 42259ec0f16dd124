# SPDX-License-Identifier: MIT
"""Forms of operations that are one module each, in every engine."""

# They enter themselves in the exporters when they are imported.
from bitwright.export.operations import product as _product
from bitwright.export.operations import table as _table

del _product, _table

__all__: list[str] = []
