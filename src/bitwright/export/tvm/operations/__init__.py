# SPDX-License-Identifier: MIT
"""Operations as calls of TIR functions: imported where TVM is, which not everybody has."""

from importlib import import_module
from pkgutil import iter_modules

# All modules enter themselves in the open functions when they are imported.
for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")

__all__: list[str] = []
