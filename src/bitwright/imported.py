# SPDX-License-Identifier: MIT
"""Functions of the user's own, named `package.module:factory`: found and imported, or refused in one line."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import ModuleType

from bitwright.errors import BitwrightError, UnknownNameError
from bitwright.raised import described


def import_factory(
    module: str, name: str, *, makes: str, kind: str, known: Iterable[str], error: type[BitwrightError]
) -> Callable[..., object]:
    """The factory `name` of a Python module, which is imported; the working directory is on the path.

    Args:
        module: Its dotted name.
        name: The name of the factory in it.
        makes: What the factory shall make, in words: "a torch.nn.Module".
        kind: What `module` is taken for, in words: "model source".
        known: What could have been asked for instead.
        error: To raise where what was found is no factory.

    Raises:
        UnknownNameError: If there is no such module or factory.
        BitwrightError: As `error`, if the module cannot be imported, or what was named is no function or class.
    """
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        imported = importlib.import_module(module)
    except ImportError as missing:
        choices = ", ".join([*known, "package.module"])
        raise UnknownNameError(f"unknown {kind} '{module}' ({missing}). Known: {choices}.") from missing
    except (Exception, SystemExit) as raised:
        raise error(f"importing '{module}' raised {described(raised)}.") from raised
    if not hasattr(imported, name):
        own = [
            key
            for key, value in vars(imported).items()
            if callable(value) and getattr(value, "__module__", "") == module
        ]
        others = f" It has: {', '.join(sorted(own)[:20])}." if own else ""
        raise UnknownNameError(f"module '{module}' has no factory '{name}'.{others}")
    found = getattr(imported, name)
    if not callable(found):
        what = "a Python module" if isinstance(found, ModuleType) else f"of type {type(found).__name__}"
        raise error(f"'{module}:{name}' is {what}: expected a function, or a class, that makes {makes}.")
    return found  # type: ignore[no-any-return]
