# SPDX-License-Identifier: MIT
"""How operations of `graph.operations` are computed in a QuantizedModel, one module each."""

from importlib import import_module
from pkgutil import iter_modules

# All modules enter themselves in the open functions when they are imported.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__: list[str] = []
