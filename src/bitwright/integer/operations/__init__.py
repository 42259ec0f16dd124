# SPDX-License-Identifier: MIT
"""Instructions each of which is one module: the operation, how nodes become it, its proof, and its executors."""

from importlib import import_module
from pkgutil import iter_modules

# All modules enter themselves in the open functions when they are imported.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__: list[str] = []
